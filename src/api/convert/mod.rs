//! Between the model's types and the JSON of the Engine API.
//!
//! Towards the client nothing can fail; from the client everything is parsed into types that are
//! legal, or refused with Docker's words.

pub mod container;
pub mod container_spec;
pub mod image;
pub mod node;
pub mod service;
pub mod service_spec;
pub mod task;

use crate::base::time::Span;

/// A count as the JSON's signed number; what does not fit is the largest.
#[must_use]
pub fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A span as nanoseconds.
#[must_use]
pub fn nanos(span: Span) -> i64 {
    int(span.as_nanos())
}
