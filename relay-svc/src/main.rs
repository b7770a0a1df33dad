//! The relay's program. All of it lies in the library, where tests reach it.

fn main() -> std::process::ExitCode {
    relay_svc::commands::main().into()
}
