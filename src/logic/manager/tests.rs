//! The manager, case by case.
