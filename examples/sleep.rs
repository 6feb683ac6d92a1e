//! A small student reasons about one night of sleep, by every route that it was trained for, and tells what each route cost.
//!
//! ```text
//! cargo run --release -p skimstone-examples --example sleep -- --night my-night.json --question "How long did I sleep?"
//! ```

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use skimstone::reason::{Answer, Ask, Engine, EngineOptions, Event};
use skimstone::sleep::Night;
use skimstone::{Model, ModelOptions};

/// A small student reasons about a night of sleep, on this device, by every route that it was trained for.
///
/// It knows time in bed, sleep latency, time awake in the night, total sleep, sleep efficiency, the midpoint of sleep, social
/// jet lag, sleep debt, deep and REM share, regular bedtimes, caffeine, the need for the age, and when to talk to a doctor.
#[derive(Parser)]
struct Arguments {
    /// The record of a night; every field is optional.
    #[arg(long, value_name = "FILE.json", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/nights/tuesday.json"))]
    night: PathBuf,
    /// What to ask about it.
    #[arg(long, default_value = "How efficient was my sleep?")]
    question: String,
    /// Take only this route.
    #[arg(long)]
    route: Option<String>,
    /// The student's bundle.
    #[arg(long, value_name = "FILE.skim", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/students/sleep.skim"))]
    student: PathBuf,
}

fn main() -> ExitCode {
    match run(&Arguments::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Arguments, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let night = open_night(&args.night)?;
    let model = Model::open(&args.student, ModelOptions::default())?;
    // The engine reads every prompt anew, so that the costs of the routes can be compared.
    let mut engine = Engine::new(&model, EngineOptions::default())?;
    let prompt = night.prompt(&args.question);
    let routes = routes(&model, args.route.as_deref())?;

    writeln!(out, "{prompt}\n")?;
    // Once unseen: the first question also pages the weights in, which no route shall pay for.
    engine.ask_text(&prompt, &Ask::new().with_route(&routes[0]))?;
    while engine.next_event()?.is_some() {}
    let mut answers = Vec::new();
    for route in routes {
        engine.ask_text(&prompt, &Ask::new().with_route(route))?;
        answers.push(show(&mut engine, out)?);
    }
    Ok(print_table(&answers, out)?)
}

fn open_night(path: &Path) -> Result<Night, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Night::from_json(&text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The route that was asked for, or all of them, the least thinking first.
fn routes(model: &Model, wanted: Option<&str>) -> skimstone::Result<Vec<String>> {
    if let Some(name) = wanted {
        model.reasoning().route(name)?; // An unknown name is an error that lists the known ones.
        return Ok(vec![name.to_owned()]);
    }
    let mut names: Vec<String> = model.reasoning().routes.keys().cloned().collect();
    names.sort_by_key(|name| {
        ["direct", "latent", "skip", "cot"]
            .iter()
            .position(|n| n == name)
    });
    Ok(names)
}

/// Shows the thinking as it comes, then the answer.
fn show(engine: &mut Engine, out: &mut impl Write) -> Result<Answer, Box<dyn Error>> {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let [dim, bold, plain] = if colour {
        ["\x1b[2m", "\x1b[1m", "\x1b[0m"]
    } else {
        [""; 3]
    };
    while let Some(event) = engine.next_event()? {
        match event {
            Event::Started { route, .. } => writeln!(out, "{bold}{route}{plain}")?,
            Event::ChunkStarted { index } => write!(out, "{dim}{:4}. ", index + 1)?,
            Event::ThinkingText(piece) => write!(out, "{}", piece.text)?,
            Event::ChunkFinished { .. } => writeln!(out, "{plain}")?,
            Event::Finished(answer) => {
                writeln!(out, "   => {bold}{}{plain}\n", answer.text.trim())?;
                return Ok(*answer);
            }
            _ => {}
        }
        out.flush()?;
    }
    Err("the engine stopped without an answer".into())
}

fn print_table(answers: &[Answer], out: &mut impl Write) -> std::io::Result<()> {
    let head = [
        "route",
        "tokens",
        "layer passes",
        "read ms",
        "think ms",
        "answer ms",
    ];
    let [route, tokens, passes, read, think, answer] = head;
    writeln!(
        out,
        "{route:<8} {tokens:>6} {passes:>12} {read:>8} {think:>8} {answer:>9}  answer"
    )?;
    for a in answers {
        let (tokens, passes) = (a.usage.generated_tokens, a.usage.layer_passes);
        let (read, think, answer) = (a.usage.ms_prefill, a.usage.ms_thinking, a.usage.ms_answer);
        writeln!(
            out,
            "{:<8} {tokens:>6} {passes:>12} {read:>8.1} {think:>8.1} {answer:>9.1}  {}",
            a.route,
            a.text.trim()
        )?;
    }
    Ok(())
}
