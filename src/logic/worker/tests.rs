//! The worker, case by case.
