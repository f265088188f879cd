//! How a component names the functions that it exports.

/// Makes a Rust function the component's function.
///
/// It takes anything that is [`FromPayload`](crate::FromPayload), and returns a `Result` of
/// anything that is [`IntoPayload`](crate::IntoPayload) and of anything that is `Into<Error>`.
///
/// ```no_run
/// use tidemill_guest::{Error, Payload};
///
/// fn echo(input: Payload) -> Result<Payload, Error> {
///     Ok(input)
/// }
///
/// tidemill_guest::function!(echo);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! function {
    ($handler:path) => {
        const _: () = {
            struct Component;

            impl $crate::bindings::Guest for Component {
                fn handle(input: $crate::Payload) -> Result<$crate::Payload, $crate::Error> {
                    let answer = $handler($crate::FromPayload::from_payload(input)?)?;
                    $crate::IntoPayload::into_payload(answer)
                }
            }

    $crate::bindings::export!(Component with_types_in $crate::bindings);
        };
    };
}

/// Makes several Rust functions one component: deployed under several names, it runs the one that
/// has the name of the call.
///
/// ```no_run
/// use tidemill_guest::{Error, Payload, state};
///
/// fn add(_: ()) -> Result<(), Error> {
///     state::counter("visits").add(1)
/// }
///
/// fn read(_: ()) -> Result<Payload, Error> {
///     Ok(Payload::text(state::counter("visits").get()?.to_string()))
/// }
///
/// tidemill_guest::functions!("add" => add, "read" => read);
/// # fn main() {}
/// ```
#[macro_export]
macro_rules! functions {
    ($($name:literal => $handler:path),+ $(,)?) => {
        const _: () = {
            fn dispatch(input: $crate::Payload) -> Result<$crate::Payload, $crate::Error> {
                let name = $crate::request::current().function;
                match name.as_str() {
                    $($name => {
                        let answer = $handler($crate::FromPayload::from_payload(input)?)?;
                        $crate::IntoPayload::into_payload(answer)
                    })+
                    _ => Err($crate::Error::new(
                        "unknown-function",
                        format!(
                            "this component has no function \"{name}\": deploy it as one of {}",
                            [$($name),+].join(", ")
                        ),
                    )),
                }
            }

            $crate::function!(dispatch);
        };
    };
}
