//! Reading a container's log.
