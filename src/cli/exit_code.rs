//! How the program ends.

use std::io::{self, Write};

/// What shells see of a command. The standard library's type does not tell its number.
#[derive(Clone, Copy, Debug)]
pub struct ExitCode(u8);

impl ExitCode {
    pub const SUCCESS: ExitCode = ExitCode(0);
    pub const FAILURE: ExitCode = ExitCode(1);

    /// Ends the process without the handlers that libraries have left for its end. A driver's threads live as long as the process,
    /// and under SwiftShader commands that had done all their work have ended by a signal there.
    pub fn leave(self) -> ! {
        // Whoever writes flushes and sees the error; what is left is as little as the standard library would write at the end.
        let _ = io::stdout().flush();
        #[cfg(unix)]
        signal_hook::low_level::exit(self.0.into());
        #[cfg(not(unix))]
        std::process::exit(self.0.into())
    }
}

impl From<u8> for ExitCode {
    fn from(code: u8) -> ExitCode {
        ExitCode(code)
    }
}
