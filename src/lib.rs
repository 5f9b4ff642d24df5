#![doc = include_str!("ARCHITECTURE.md")]
// This is the only place where lints are opted out of.

pub mod base;
pub mod model;

pub mod logic;

macro_rules! io_shell {
    ($($(#[$attr:meta])* $name:ident),* $(,)?) => { $(
        #[allow(
            clippy::disallowed_methods,
            clippy::disallowed_types,
            reason = "I/O shell: what blocks, fails or differs between two runs lives here"
        )]
        $(#[$attr])*
        pub mod $name;
    )* };
}

io_shell! {
    api,
    #[allow(clippy::print_stdout, clippy::print_stderr, reason = "the command line prints")]
    cli,
    daemon,
    demo,
    hello,
    #[allow(unsafe_code, reason = "system calls that nix does not wrap")]
    host,
    #[allow(unsafe_code, reason = "splice, descriptors over a socket")]
    proxy,
    #[allow(unsafe_code, reason = "fork, exec, wait, descriptors")]
    shim,
}
