//! Long work on the terminal: a bar, and Ctrl-C that calls it off.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use ledger::Options;
use ledger::admin::{AdminAnswer, AdminRequest, ask_or_run};
use ledger::own::Told;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::output;

/// Exit code of a command that is told a second time to stop, as of any that Ctrl-C ends.
const EXIT_SIGNAL: i32 = 130;

/// Why work is called off from here.
const REASON: &str = "called off where it was asked for";

/// What a bar counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unit {
    Bytes,
    Leaves,
}

/// What the first Ctrl-C sets; a second one ends the command at once.
pub(crate) fn stop_on_signal() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first one finds the flag unset, and sets it.
        flag::register_conditional_shutdown(signal, EXIT_SIGNAL, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// Says `what` on stderr once the first Ctrl-C came: who waits for bytes sees the flag only with the next of them.
pub(crate) fn tell_when_stopped(stop: &Arc<AtomicBool>, what: &'static str) {
    /// As soon as somebody who typed it looks.
    const LOOK_EVERY: Duration = Duration::from_millis(50);
    let stop = Arc::clone(stop);
    // It ends with the program.
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK_EVERY);
        }
        output::note(format_args!("deponent: {what}"));
    });
}

/// Asks for long work, with a bar on a terminal. The first Ctrl-C calls it off, and its answer is still waited for; a
/// second one ends the command at once, and what serves the folder goes on.
pub(crate) fn ask(options: Options, request: AdminRequest, unit: Unit) -> Result<AdminAnswer> {
    let stop = stop_on_signal()?;
    let bar = ProgressBar::new(0);
    let template = match unit {
        Unit::Bytes => "{bar:40} {bytes}/{total_bytes}, {eta} left  {msg}",
        Unit::Leaves => "{bar:40} {pos}/{len} leaves, {eta} left  {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    let mut tell = |told: Told<'_>| {
        bar.set_length(told.total);
        bar.set_position(told.done);
        if stop.load(Ordering::Relaxed) {
            bar.set_message("stops after this batch");
            return ControlFlow::Break(REASON.to_owned());
        }
        if bar.message().is_empty() {
            bar.set_message(format!("job {}", told.job_id));
        }
        ControlFlow::Continue(())
    };
    let answer = ask_or_run(options, request, crate::clock::clock(), &mut tell);
    bar.finish_and_clear();
    Ok(answer?)
}
