//! How long a cancelled call takes to return: in a long prompt, and in decoding behind it.
//!
//! ```text
//! cargo bench -p skimstone-benches --bench cancel -- MODEL.skim [prompt=8192] [n=300] [threads=1]
//! ```
//!
//! A second thread cancels at random moments, a few chunks apart, so that every depth of the prompt is met; the time is from its call
//! to the return of the one that works. The prompt then goes on where it was stopped, and is read again and again until there are
//! `n` times. What the machine does beside adds to the largest of them: say so with the record.

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use skimstone::{ErrorKind, Model, ModelOptions, Session, SessionOptions, TokenId};

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo adds `--bench`; without a model there is nothing to measure, which is how the test suite calls it.
    let args: Vec<String> = std::env::args().skip(1).collect();
    let mut named = args.iter().filter(|arg| !arg.starts_with("--"));
    let Some(path) = named.next() else {
        println!("skipped: name a bundle");
        return Ok(());
    };
    let (mut prompt, mut n, mut threads) = (8192, 300, 1);
    for option in named {
        match option.split_once('=') {
            Some(("prompt", value)) => prompt = value.parse()?,
            Some(("n", value)) => n = value.parse()?,
            Some(("threads", value)) => threads = value.parse()?,
            _ => return Err(format!("unknown option `{option}`").into()),
        }
    }
    let options = ModelOptions::new()
        .with_threads(threads)
        .with_context(prompt + 64);
    let model = Model::open(path, options)?;
    let mut session = Session::new(&model, SessionOptions::new())?;
    let vocab = model.config().vocab_size as u32;
    let ids: Vec<TokenId> = (0..prompt as u32)
        .map(|i| i.wrapping_mul(2_654_435_761) % vocab)
        .collect();

    // One chunk alone says how far apart cancels should be.
    session.feed(&ids[..64])?;
    session.truncate(0)?;
    let began = Instant::now();
    session.feed(&ids[..64])?;
    let chunk = began.elapsed();
    let prefill = latencies(&mut session, n, 3 * chunk, |session| {
        if session.position() == prompt {
            session.truncate(0)?;
        }
        session.feed(&ids[session.position()..])
    })?;

    session.truncate(0)?;
    session.feed(&ids)?;
    let began = Instant::now();
    session.step(ids[0])?;
    let step = began.elapsed();
    let decode = latencies(&mut session, n, 20 * step, |session| {
        loop {
            if session.room() == 0 {
                session.truncate(prompt)?;
            }
            session.step(ids[0])?;
        }
    })?;

    println!("# {path}, {threads} threads, {}", model.kernels());
    println!("phase,depth,n,unit_of_work_ms,p50_ms,p99_ms,max_ms");
    let row = |phase: &str, depth: &str, unit: Duration, times: &[f64]| {
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        println!(
            "{phase},{depth},{},{:.3},{:.3},{:.3},{:.3}",
            times.len(),
            unit.as_secs_f64() * 1e3,
            at(0.5),
            at(0.99),
            at(1.0)
        );
    };
    row("prefill", &format!("0 to {prompt}"), chunk, &prefill);
    row("decode", &prompt.to_string(), step, &decode);
    Ok(())
}

/// Milliseconds from a cancel to the end of `work`, `n` times, ascending; cancels come `pause` apart, give or take as much.
fn latencies(
    session: &mut Session,
    n: usize,
    pause: Duration,
    mut work: impl FnMut(&mut Session) -> skimstone::Result<()>,
) -> skimstone::Result<Vec<f64>> {
    let cancel = session.cancel_handle();
    let epoch = Instant::now();
    // Nanoseconds after the epoch of the cancel that was not answered yet; 0: none.
    let (asked, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut times = Vec::with_capacity(n);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut random = 0x9e37_79b9_7f4a_7c15_u64;
            while !done.load(Ordering::Acquire) {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                std::thread::sleep(pause.mul_f64((random >> 11) as f64 / (1u64 << 52) as f64));
                if asked.load(Ordering::Acquire) == 0 {
                    let now = epoch.elapsed().as_nanos() as u64;
                    asked.store(now.max(1), Ordering::Release);
                    cancel.cancel();
                }
            }
        });
        let mut run = || {
            while times.len() < n {
                match work(session) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::Cancelled => {
                        let now = epoch.elapsed().as_nanos() as u64;
                        times.push((now - asked.load(Ordering::Acquire)) as f64 / 1e6);
                        cancel.reset();
                        asked.store(0, Ordering::Release);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        let result = run();
        done.store(true, Ordering::Release);
        result
    });
    cancel.reset();
    times.sort_by(f64::total_cmp);
    result.map(|()| times)
}
