//! Between the model's types and the JSON of the Engine API.
