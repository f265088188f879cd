//! Tests of the machines through their public interface: one member, and a hand that plays all the
//! others. Whole clusters are `sim`'s business.

mod floor;
