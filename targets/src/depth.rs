//! How deep generated tokens run, on the command line.

use skimstone::{
    Depth, DraftSpec, Error, ErrorKind, ExitMeasure, ExitSpec, MissingKv, Model, RouteDepth,
    ShortcutSpec,
};

/// How deep generated tokens run.
#[derive(clap::Args)]
pub(crate) struct DepthArgs {
    /// How deep tokens and latent steps run: full, exits, drafts or shortcut [default: as the route says].
    #[arg(long, value_name = "DEPTH", value_parser = depth)]
    depth: Option<RouteDepth>,

    /// Leave the stack early from this confidence on, instead of the bundle's; 1 never does.
    #[arg(
        long,
        value_name = "CONFIDENCE",
        allow_negative_numbers = true,
        conflicts_with = "draft"
    )]
    exit_threshold: Option<f32>,

    /// After how many layers a token may leave, separated by commas [default: the bundle's, else after each].
    #[arg(
        long,
        value_name = "N",
        value_delimiter = ',',
        conflicts_with = "draft"
    )]
    exit_layers: Vec<usize>,

    /// What tells the confidence: softmax or saturation [default: the bundle's, else softmax].
    #[arg(long, value_name = "MEASURE", value_parser = measure, conflicts_with = "draft")]
    exit_measure: Option<ExitMeasure>,

    /// What layers that a token left out hold for it: propagate or ragged [default: the bundle's, else propagate].
    #[arg(long, value_name = "WHAT", value_parser = missing_kv, conflicts_with = "draft")]
    missing_kv: Option<MissingKv>,

    /// Let the first layers guess so many tokens, which the others verify; the words stay the same.
    #[arg(long, value_name = "LAYERS,TOKENS", value_parser = draft)]
    draft: Option<DraftSpec>,

    /// Leave a layer out of a latent step where its router says more than this, instead of the bundle's threshold; 1 never does.
    #[arg(long, value_name = "VALUE", conflicts_with_all = ["draft", "exit_threshold", "exit_layers", "exit_measure", "missing_kv"])]
    shortcut_threshold: Option<f32>,
}

impl DepthArgs {
    /// What was asked for; `None`: as the route says.
    pub(crate) fn resolve(&self, model: &Model) -> Result<Option<Depth>, Error> {
        let spec = model.reasoning();
        let by_hand = self.exit_threshold.is_some()
            || !self.exit_layers.is_empty()
            || self.exit_measure.is_some()
            || self.missing_kv.is_some();
        if let Some(threshold) = self.shortcut_threshold {
            return match self.depth {
                None | Some(RouteDepth::Shortcut) => self.shortcut(model, threshold).map(Some),
                Some(depth) => Err(no_such_options(depth)),
            };
        }
        let asked = match (self.depth, by_hand, self.draft) {
            (None, false, None) => return Ok(None),
            (Some(RouteDepth::Exits) | None, true, _) => RouteDepth::Exits,
            (Some(RouteDepth::Drafts) | None, _, Some(draft)) => {
                return Ok(Some(Depth::Drafts(draft)));
            }
            (Some(depth), false, None) => depth,
            (Some(depth), ..) => return Err(no_such_options(depth)),
        };
        if asked != RouteDepth::Exits || !by_hand {
            return spec.depth(asked).map(Some);
        }
        let mut exits = match (&spec.exits, self.exit_threshold) {
            (Some(exits), _) => exits.clone(),
            (None, Some(threshold)) => ExitSpec::new(every_exit(model), threshold),
            (None, None) => {
                let message = "this bundle knows no threshold for exits";
                return Err(
                    Error::new(ErrorKind::Argument, message).with_hint("give --exit-threshold")
                );
            }
        };
        exits.threshold = self.exit_threshold.unwrap_or(exits.threshold);
        exits.measure = self.exit_measure.unwrap_or(exits.measure);
        exits.missing_kv = self.missing_kv.unwrap_or(exits.missing_kv);
        if !self.exit_layers.is_empty() {
            exits.layers.clone_from(&self.exit_layers);
        }
        Ok(Some(Depth::Exits(exits)))
    }

    /// The bundle's shortcuts at another threshold.
    fn shortcut(&self, model: &Model, threshold: f32) -> Result<Depth, Error> {
        let depth = model.reasoning().depth(RouteDepth::Shortcut)?;
        Ok(match depth {
            Depth::Shortcut(shortcut) => Depth::Shortcut(ShortcutSpec {
                threshold,
                ..shortcut
            }),
            other => other,
        })
    }
}

fn no_such_options(depth: RouteDepth) -> Error {
    let message = format!("depth `{}` has no such options", depth.name());
    Error::new(ErrorKind::Argument, message)
        .with_hint("--exit-* belong to exits, --draft to drafts, --shortcut-threshold to shortcut")
}

/// After each layer but the last.
pub(crate) fn every_exit(model: &Model) -> Vec<usize> {
    (1..model.config().num_hidden_layers).collect()
}

fn depth(argument: &str) -> Result<RouteDepth, String> {
    let known = RouteDepth::ALL.map(RouteDepth::name).join(", ");
    RouteDepth::from_name(argument).ok_or_else(|| format!("known depths: {known}"))
}

/// Parses the name of a measure.
pub(crate) fn measure(argument: &str) -> Result<ExitMeasure, String> {
    let known = ExitMeasure::ALL.map(ExitMeasure::name).join(", ");
    ExitMeasure::from_name(argument).ok_or_else(|| format!("known measures: {known}"))
}

/// Parses what is held of layers left out.
pub(crate) fn missing_kv(argument: &str) -> Result<MissingKv, String> {
    let known = MissingKv::ALL.map(MissingKv::name).join(", ");
    MissingKv::from_name(argument).ok_or_else(|| format!("known choices: {known}"))
}

fn draft(argument: &str) -> Result<DraftSpec, String> {
    let numbers: Option<Vec<usize>> = argument.split(',').map(|part| part.parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[layers, tokens]) => Ok(DraftSpec::new(layers, tokens)),
        _ => Err("expected two numbers, layers and tokens, e.g. 2,4".to_owned()),
    }
}
