//! The store against a plain model, and apply case by case.
