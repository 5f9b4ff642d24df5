//! What every command needs: the daemon's client, the two outputs, the terminal, the clock.

use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use super::client::Client;
use super::error::CliError;

/// Columns where no terminal says otherwise.
const COLUMNS: usize = 80;

/// One run of a command.
#[derive(Debug)]
pub struct Context {
    /// The daemon.
    pub client: Client,
    out: BufWriter<Stdout>,
    /// Whether standard output is a terminal.
    pub terminal: bool,
}

impl Context {
    /// For the daemon at `host`.
    pub fn new(host: &str) -> Result<Self, CliError> {
        let out = io::stdout();
        let terminal = out.is_terminal();
        Ok(Self { client: Client::new(host)?, out: BufWriter::new(out), terminal })
    }

    /// Writes text to standard output.
    pub fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.bytes(text.as_bytes())
    }

    /// Writes a line to standard output.
    pub fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.print(text)?;
        self.print("\n")
    }

    /// Writes bytes to standard output.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.out.write_all(bytes).map_err(CliError::Output)
    }

    /// Makes everything written so far visible.
    pub fn flush(&mut self) -> Result<(), CliError> {
        self.out.flush().map_err(CliError::Output)
    }

    /// Writes a line to standard error, behind what standard output got so far.
    pub fn error(&mut self, text: &str) -> Result<(), CliError> {
        self.flush()?;
        error_line(text)
    }
}

/// Writes a line to standard error.
pub fn error_line(text: &str) -> Result<(), CliError> {
    writeln!(io::stderr(), "{text}").map_err(CliError::Output)
}

/// The width of the terminal, where there is one.
#[must_use]
pub fn columns() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    size.map_or(COLUMNS, |size| if size.ws_col == 0 { COLUMNS } else { usize::from(size.ws_col) })
}

/// Asks before something is removed; only `y` is a yes.
pub fn confirmed(ctx: &mut Context, warning: &str) -> Result<bool, CliError> {
    ctx.print(&format!("{warning}\nAre you sure you want to continue? [y/N] "))?;
    ctx.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(CliError::Input)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
