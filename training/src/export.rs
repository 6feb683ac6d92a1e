//! From a checkpoint to a `.skim` bundle, through the runtime's own encoder.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Value, json};
use skimstone::kernels::Format;
use skimstone::{
    BundleSpec, BundleWriter, LatentMap, ReasoningSpec, RouteDepth, RouteSpec, SideModules,
    TensorDecl,
};

use crate::checkpoint;
use crate::data::Encoder;
use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::student::Student;

/// Exports the student of a checkpoint folder as a bundle.
///
/// The routes are those that the recipe trains. `card`, the evaluation card of an earlier export of the same weights, goes into the
/// provenance.
///
/// # Errors
/// If the checkpoint is damaged, the tokenizer lacks a special token or the bundle cannot be written.
pub fn export(
    path: &Path,
    recipe: &Recipe,
    format: Format,
    card: Option<Value>,
    out: &Path,
) -> Result<()> {
    let student = checkpoint::load_student(path)?;
    let tokenizer = path.join("tokenizer.json");
    let encoder = Encoder::open(&tokenizer, &recipe.routes)?;
    // The record of the run lies beside its checkpoints.
    let manifest = path
        .parent()
        .map(|folder| folder.join("manifest.json"))
        .filter(|path| path.exists());
    let manifest = match manifest {
        Some(path) => {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            serde_json::from_str(&text)
                .map_err(|error| Error::Recipe(format!("{}: {error}", path.display())))?
        }
        None => Value::Null,
    };
    let mut spec = BundleSpec::new(student.config().clone());
    spec.reasoning = reasoning(recipe, &encoder, student.side())?;
    spec.tokenizer_json = Some(std::fs::read(&tokenizer).map_err(Error::io(&tokenizer))?);
    spec.provenance = json!({
        "made_by": format!("skim-train {}", env!("CARGO_PKG_VERSION")),
        "checkpoint": path.file_name().map(|name| name.to_string_lossy()),
        "format": format.name(),
        "manifest": manifest,
        "evaluation": card,
    });
    write_bundle(&student, spec, format, out)
}

/// Writes a student's weights with `spec`: matrices in `format`, norms and biases in f32.
///
/// # Errors
/// [`Error::Runtime`] if the specification contradicts the weights or the file cannot be written.
pub fn write_bundle(student: &Student, spec: BundleSpec, format: Format, out: &Path) -> Result<()> {
    let mut tensors = TensorDecl::for_model(student.config(), format);
    let side = student.side().tensors(student.config()).into_iter();
    tensors.extend(side.map(|tensor| TensorDecl::new(tensor, format)));
    let mut writer = BundleWriter::create(out, spec, &tensors)?;
    for (name, variable) in student.variables() {
        let values: Vec<f32> = variable.flatten_all()?.to_vec1()?;
        writer.write_f32(name, &values)?;
    }
    Ok(writer.commit()?)
}

/// What the student was trained to do, with the token ids of its tokenizer.
fn reasoning(recipe: &Recipe, encoder: &Encoder, side: SideModules) -> Result<ReasoningSpec> {
    let shortcut = recipe
        .shortcut
        .filter(|shortcut| side.shortcut == Some(shortcut.size));
    if shortcut.is_none() && side.shortcut.is_some() {
        let message = "the student has routers, the recipe no `shortcut` of their size";
        return Err(Error::Recipe(message.to_owned()));
    }
    let trained: BTreeSet<&str> = recipe
        .data
        .iter()
        .flat_map(|data| &data.routes)
        .map(String::as_str)
        .collect();
    let mut routes = BTreeMap::new();
    for name in trained {
        let (route, open) = encoder
            .route(name)
            .ok_or_else(|| Error::Recipe(format!("unknown route `{name}`")))?;
        routes.insert(
            name.to_owned(),
            RouteSpec {
                kind: route.kind,
                open: open.to_vec(),
                close: encoder.close(route.kind),
                latent_steps: route.latents,
                depth: match shortcut {
                    Some(_) if route.latents > 0 => RouteDepth::Shortcut,
                    _ => RouteDepth::Full,
                },
                latent_map: match side.latent_map_size {
                    Some(inner_size) if route.latents > 0 => LatentMap::Mlp { inner_size },
                    _ => LatentMap::default(),
                },
                max_thinking_tokens: route.max_thinking_tokens,
                ..RouteSpec::default()
            },
        );
    }
    let default_route = match &recipe.export.default_route {
        Some(name) if !routes.contains_key(name) => {
            return Err(Error::Recipe(format!(
                "`export.default_route` is `{name}`, which no data file trains"
            )));
        }
        Some(name) => name.clone(),
        None => routes.keys().next().cloned().unwrap_or_default(),
    };
    Ok(ReasoningSpec {
        routes,
        default_route,
        answer_reserve: recipe.export.answer_reserve,
        stop: vec![encoder.end()],
        chunk: Some(encoder.separator()),
        shortcut,
        ..ReasoningSpec::default()
    })
}
