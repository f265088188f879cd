//! A function that would need a radio: to deploy it has to be refused by the name of that.

use tidemill_guest::{Error, Payload};

tidemill_guest::function!(listen);

#[allow(missing_docs)]
mod bindings {
    wit_bindgen::generate!({
        inline: "
            package acme:radio;

            interface tuner {
                tune: func(hz: u32);
            }

            world receiver {
                import tuner;
            }
        ",
    });
}

fn listen(input: Payload) -> Result<Payload, Error> {
    bindings::acme::radio::tuner::tune(89_800_000);
    Ok(input)
}
