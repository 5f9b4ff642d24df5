//! Docker's own client against our socket.
