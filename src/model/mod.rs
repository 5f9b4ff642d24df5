//! The domain as data: types whose constructors refuse what is not legal. No I/O.
