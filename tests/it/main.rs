//! Integration tests: real kernel, real runc, real namespaces. They need root and fail loudly without.
