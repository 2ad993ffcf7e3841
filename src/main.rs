//! Starts the command line and maps its result to an exit status; nothing else.
fn main() -> std::process::ExitCode {
    hull::cli::main()
}
