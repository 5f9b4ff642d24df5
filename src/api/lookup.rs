//! Finding an object by what a user typed: its id, its name, or a beginning of its id.

use super::errors::ApiError;

/// One object as a candidate.
#[derive(Clone, Debug)]
pub struct Candidate<'a, T> {
    /// Its whole id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: &'a T,
}

/// The object that `typed` means: by whole id, else by whole name, else by the beginning of an id
/// that no other shares. `kind` is for messages.
///
/// # Errors
/// With Docker's text when there is none, or more than one; then also which.
pub fn find<'a, T>(
    kind: &str,
    typed: &str,
    candidates: impl Iterator<Item = Candidate<'a, T>>,
) -> Result<&'a T, ApiError> {
    let (mut named, mut begun) = (Vec::new(), Vec::new());
    for candidate in candidates {
        if candidate.id == typed {
            return Ok(candidate.object);
        }
        if candidate.name == typed {
            named.push(candidate);
        } else if !typed.is_empty() && candidate.id.starts_with(typed) {
            begun.push(candidate);
        }
    }
    let found = if named.is_empty() { begun } else { named };
    match found.as_slice() {
        [] => Err(ApiError::not_found(format!("{kind} {typed} not found"))),
        [one] => Ok(one.object),
        several => {
            let which: Vec<_> =
                several.iter().map(|one| format!("{} ({})", one.id, one.name)).collect();
            Err(ApiError::invalid(format!(
                "{kind} {typed} is ambiguous ({} matches found): {}",
                several.len(),
                which.join(", ")
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_then_name_then_beginning() {
        let objects = [("abc1", "web"), ("abd2", "abc"), ("x", "dup"), ("y", "dup")];
        let candidates = || {
            objects.iter().map(|object| Candidate { id: object.0.to_owned(), name: object.1.to_owned(), object })
        };
        let id = |typed: &str| find("service", typed, candidates()).map(|object| object.0);
        assert_eq!(id("abc1"), Ok("abc1"));
        assert_eq!(id("abc"), Ok("abd2"), "a whole name wins over a beginning");
        assert_eq!(id("abd"), Ok("abd2"));
        assert_eq!(id("we"), Err(ApiError::not_found("service we not found")));
        assert_eq!(id(""), Err(ApiError::not_found("service  not found")));
        assert_eq!(
            id("ab"),
            Err(ApiError::invalid(
                "service ab is ambiguous (2 matches found): abc1 (web), abd2 (abc)"
            ))
        );
        assert_eq!(id("dup").unwrap_err().status, 400);
    }
}
