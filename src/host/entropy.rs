//! Random bytes from the kernel, for ids, seeds and secrets. On a fresh board the first call may
//! wait until the kernel has gathered enough.

use std::io;

/// 128 random bits, for an id.
///
/// # Errors
/// When the kernel gives none.
pub fn u128() -> io::Result<u128> {
    bytes().map(u128::from_ne_bytes)
}

/// 32 random bytes, for a seed or a key.
///
/// # Errors
/// When the kernel gives none.
pub fn bytes32() -> io::Result<[u8; 32]> {
    bytes()
}

/// As many random bytes as the type asks for.
///
/// # Errors
/// When the kernel gives none.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::from)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_ne!(u128().unwrap(), u128().unwrap());
        assert_ne!(bytes32().unwrap(), bytes32().unwrap());
    }
}
