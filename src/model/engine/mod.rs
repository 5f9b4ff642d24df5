//! The JSON of the Docker Engine API, field for field: what `api` serves and `cli` asks for.
//!
//! Only shapes live here, no rules: text stays text, and what a value means is decided where it is
//! parsed into the model. Every field may be missing or `null` and is then its default; fields that
//! are not known are ignored. Durations are nanoseconds, times RFC 3339, as on Docker's wire.

pub mod container_spec;
pub mod image;
pub mod network;
pub mod node;
pub mod service;
pub mod stream;
pub mod swarm;
pub mod system;
pub mod task;
pub mod volume;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serializer};

/// `Labels` and every other map of texts, in the order Docker prints them.
pub type Labels = BTreeMap<String, String>;

/// Declares structs of the API. The fields of `always` are written even when they are empty, those
/// of `omit` only when they are not; a name after `=` is used instead of the field's own in
/// PascalCase. The order is the one in which Docker writes them.
macro_rules! engine {
    ($(
        $(#[$meta:meta])*
        $name:ident {
            $(omit { $($(#[$fm:meta])* $f:ident : $ft:ty $(= $fj:literal)?),* $(,)? })?
            $(
                always { $($(#[$am:meta])* $a:ident : $at:ty $(= $aj:literal)?),* $(,)? }
                $(omit { $($(#[$om:meta])* $o:ident : $ot:ty $(= $oj:literal)?),* $(,)? })?
            )*
        }
    )*) => { $(
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, rename_all = "PascalCase")]
        #[allow(missing_docs, reason = "the fields are those of the Docker Engine API")]
        pub struct $name {
            $($(
                $(#[$fm])*
                #[serde(
                    $(rename = $fj,)?
                    deserialize_with = "crate::model::engine::nullable",
                    skip_serializing_if = "crate::model::engine::unset"
                )]
                pub $f: $ft,
            )*)?
            $(
                $(
                    $(#[$am])*
                    #[serde($(rename = $aj,)? deserialize_with = "crate::model::engine::nullable")]
                    pub $a: $at,
                )*
                $($(
                    $(#[$om])*
                    #[serde(
                        $(rename = $oj,)?
                        deserialize_with = "crate::model::engine::nullable",
                        skip_serializing_if = "crate::model::engine::unset"
                    )]
                    pub $o: $ot,
                )*)?
            )*
        }
    )* };
}
pub(crate) use engine;

/// `null` counts as missing: Go writes it for every empty list and map.
fn nullable<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// A number without a fraction as Go writes it: `0`, not `0.0`.
fn short<S: Serializer>(number: &f64, to: S) -> Result<S::Ok, S::Error> {
    // Larger ones cannot be told from their neighbours.
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < WHOLE_MAX {
        #[allow(clippy::cast_possible_truncation, reason = "the lines above")]
        return to.serialize_i64(*number as i64);
    }
    to.serialize_f64(*number)
}

/// Whether a field of an `omit` group is left out.
fn unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

engine! {
    /// An object's version: `?version=` of an update must equal it.
    Version {
        omit { index: u64 }
    }

    /// The body of every answer that is not a success.
    ErrorBody {
        always { message: String = "message" }
    }

    /// The answer to a creation.
    Created {
        always { id: String = "ID" }
        omit { warnings: Vec<String> }
    }

    /// A driver and its options: of logs, volumes, networks.
    Driver {
        omit { name: String, options: Labels }
    }

    /// An object without fields, where its presence is the message.
    Empty {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_missing_and_unknown_fields_are_accepted() {
        let driver: Driver =
            serde_json::from_str(r#"{"Name": null, "Options": null, "New": [1]}"#).unwrap();
        assert_eq!(driver, Driver::default());
        assert_eq!(serde_json::to_string(&driver).unwrap(), "{}");
        assert_eq!(serde_json::to_string(&Created::default()).unwrap(), r#"{"ID":""}"#);
    }

    #[test]
    fn names_are_dockers() {
        let spec = service::ServiceSpec {
            name: "web".to_owned(),
            mode: service::ServiceMode {
                global: Some(Empty::default()),
                ..service::ServiceMode::default()
            },
            ..service::ServiceSpec::default()
        };
        let text = serde_json::to_string(&spec).unwrap();
        assert_eq!(
            text,
            r#"{"Name":"web","Labels":{},"TaskTemplate":{"ForceUpdate":0},"Mode":{"Global":{}}}"#
        );
        assert_eq!(serde_json::from_str::<service::ServiceSpec>(&text).unwrap(), spec);
    }

    #[test]
    fn fields_are_in_dockers_order() {
        let config = |ratio| service::UpdateConfig {
            delay: 5,
            max_failure_ratio: ratio,
            ..service::UpdateConfig::default()
        };
        for (ratio, written) in [(0.0, "0"), (0.25, "0.25"), (1.0, "1"), (1e300, "1e+300")] {
            assert_eq!(
                serde_json::to_string(&config(ratio)).unwrap(),
                format!(r#"{{"Parallelism":0,"Delay":5,"MaxFailureRatio":{written},"Order":""}}"#)
            );
        }
        let task = task::TaskSpec { runtime: "container".to_owned(), ..Default::default() };
        let text = serde_json::to_string(&task).unwrap();
        assert_eq!(text, r#"{"ForceUpdate":0,"Runtime":"container"}"#);
    }
}
