//! The process that sits by each container.
