//! Starts the command line and maps its result to an exit status; nothing else.
#![cfg_attr(not(test), no_main)]

hull::entry!(hull::cli::main);
