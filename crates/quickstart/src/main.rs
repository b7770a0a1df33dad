//! The program; everything is in the library.

fn main() -> std::process::ExitCode {
    linkmail_quickstart::commands::main()
}
