//! The flags of health checks.

use crate::cli::CliError;
use crate::cli::args::create::Create;
use crate::cli::args::update::Update;
use crate::cli::error::plain;
use crate::model::engine::container_spec::HealthConfig;

/// What the flags of one command say.
#[derive(Debug)]
pub struct Flags<'a> {
    command: Option<&'a str>,
    interval: Option<i64>,
    timeout: Option<i64>,
    start_period: Option<i64>,
    start_interval: Option<i64>,
    retries: Option<i64>,
    off: Option<bool>,
}

macro_rules! flags_of {
    ($args:ident) => {
        impl<'a> From<&'a $args> for Flags<'a> {
            fn from(args: &'a $args) -> Self {
                Self {
                    command: args.health_cmd.as_deref(),
                    interval: args.health_interval,
                    timeout: args.health_timeout,
                    start_period: args.health_start_period,
                    start_interval: args.health_start_interval,
                    retries: args.health_retries,
                    off: args.no_healthcheck,
                }
            }
        }
    };
}

flags_of!(Create);
flags_of!(Update);

/// Edits a check as the flags say, with Docker's rules.
pub fn apply(check: &mut Option<HealthConfig>, flags: &Flags<'_>) -> Result<(), CliError> {
    let times = [flags.interval, flags.timeout, flags.start_period, flags.start_interval];
    let given =
        flags.command.is_some() || flags.retries.is_some() || times.iter().any(Option::is_some);
    if flags.off == Some(true) {
        if given {
            return Err(plain("--no-healthcheck conflicts with --health-* options"));
        }
        *check = Some(HealthConfig { test: vec!["NONE".to_owned()], ..HealthConfig::default() });
        return Ok(());
    }
    if flags.off == Some(false) {
        *check = None;
    }
    if !given {
        return Ok(());
    }
    let check = check.get_or_insert_default();
    if check.test.first().is_some_and(|first| first == "NONE") {
        check.test.clear();
    }
    if let Some(command) = flags.command {
        check.test = match command {
            "" => Vec::new(),
            command => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        };
    }
    for (field, value) in [
        (&mut check.interval, flags.interval),
        (&mut check.timeout, flags.timeout),
        (&mut check.start_period, flags.start_period),
        (&mut check.start_interval, flags.start_interval),
        (&mut check.retries, flags.retries),
    ] {
        *field = value.unwrap_or(*field);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Flags<'_> = Flags {
        command: None,
        interval: None,
        timeout: None,
        start_period: None,
        start_interval: None,
        retries: None,
        off: None,
    };

    #[test]
    fn flags_edit_the_check() {
        let mut check = None;
        apply(&mut check, &NOTHING).unwrap();
        assert_eq!(check, None);
        let flags = Flags { command: Some("true"), retries: Some(3), ..NOTHING };
        apply(&mut check, &flags).unwrap();
        let test = vec!["CMD-SHELL".to_owned(), "true".to_owned()];
        let wanted = HealthConfig { test, retries: 3, ..HealthConfig::default() };
        assert_eq!(check, Some(wanted.clone()));
        apply(&mut check, &Flags { interval: Some(5), ..NOTHING }).unwrap();
        assert_eq!(check, Some(HealthConfig { interval: 5, ..wanted }));
        apply(&mut check, &Flags { off: Some(true), ..NOTHING }).unwrap();
        assert_eq!(check.as_ref().unwrap().test, ["NONE"]);
        apply(&mut check, &Flags { timeout: Some(7), ..NOTHING }).unwrap();
        assert_eq!(check, Some(HealthConfig { timeout: 7, ..HealthConfig::default() }));
        let both = Flags { off: Some(true), timeout: Some(7), ..NOTHING };
        let text = apply(&mut check, &both).unwrap_err().to_string();
        assert_eq!(text, "--no-healthcheck conflicts with --health-* options");
    }
}
