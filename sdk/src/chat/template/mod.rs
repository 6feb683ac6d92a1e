//! Jinja templates, rendered by `minijinja`.
//!
//! A template is Jinja source that comes with the model; Hugging Face renders it with Python's Jinja. `minijinja` renders it here,
//! with what those templates expect on top: Python's string methods, `raise_exception`, `strftime_now`, loop controls,
//! `tojson` with Python's spacing, and undefined variables that are merely empty.
//!
//! Templates come from outside. A render has a budget of instructions, so that an endless loop ends in an error. The budget does
//! not bound the size of the strings that a template builds.

mod strftime;
mod tojson;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use minijinja::{Environment, UndefinedBehavior, Value, context};

use super::{ChatOptions, Message};
use crate::error::{Error, ErrorKind, Result};

/// Instructions that one render may use. The longest real templates need a few hundred per message; this is about a second.
const FUEL: u64 = 10_000_000;

const NAME: &str = "chat template";

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate")
            .field("special_tokens", &self.special_tokens)
            .finish_non_exhaustive()
    }
}

impl ChatTemplate {
    /// Compiles Jinja source. `special_tokens` are variables such as `bos_token` that templates print.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] with the line that is malformed.
    pub fn new(source: &str, special_tokens: BTreeMap<String, String>) -> Result<ChatTemplate> {
        let mut environment = Environment::new();
        // The settings of transformers' `_compile_jinja_template`.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson::tojson);
        environment.add_function(
            "raise_exception",
            |message: String| -> Result<String, minijinja::Error> {
                Err(minijinja::Error::new(
                    minijinja::ErrorKind::InvalidOperation,
                    message,
                ))
            },
        );
        let source = without_generation_tags(source).into_owned();
        environment
            .add_template_owned(NAME, source)
            .map_err(template_error)?;
        Ok(ChatTemplate {
            environment,
            special_tokens,
        })
    }

    /// Renders a conversation to the prompt text. Tokenize it without adding special tokens: the template wrote them.
    ///
    /// # Errors
    /// [`ErrorKind::Template`] if the template refuses the messages or does not come to an end.
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String> {
        let now = options.now.unwrap_or_else(SystemTime::now);
        let strftime_now = move |format: &str| strftime::format_utc(now, format);
        let mut variables: BTreeMap<&str, Value> = BTreeMap::new();
        variables.extend(
            self.special_tokens
                .iter()
                .map(|(name, token)| (name.as_str(), token.into())),
        );
        if let Some(enable) = options.enable_thinking {
            variables.insert("enable_thinking", enable.into());
        }
        if !options.tools.is_empty() {
            variables.insert("tools", Value::from_serialize(&options.tools));
        }
        let more = options.variables.iter();
        variables.extend(more.map(|(name, value)| (name.as_str(), Value::from_serialize(value))));
        let context = context! {
            messages => messages,
            add_generation_prompt => options.add_generation_prompt,
            strftime_now => Value::from_function(strftime_now),
            ..Value::from_iter(variables)
        };
        let template = self
            .environment
            .get_template(NAME)
            .map_err(template_error)?;
        template.render(context).map_err(template_error)
    }
}

/// Turns `{% generation %}…{% endgeneration %}`, which marks what is trained on and prints nothing, into a block that is always
/// taken: `minijinja` has no custom tags, and dropping the marks would change which blanks around them are trimmed.
fn without_generation_tags(source: &str) -> Cow<'_, str> {
    if !source.contains("endgeneration") {
        return Cow::Borrowed(source);
    }
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag_and_rest)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((tag, after)) = tag_and_rest.split_once("%}") else {
            rest = tag_and_rest;
            break;
        };
        match tag.trim_matches(['-', '+']).trim() {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = after;
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn template_error(error: minijinja::Error) -> Error {
    let message = match error.kind() {
        minijinja::ErrorKind::OutOfFuel => format!("did not end within {FUEL} instructions"),
        kind => error
            .detail()
            .map_or_else(|| kind.to_string(), str::to_owned),
    };
    let place = match error.line() {
        Some(line) => format!("{NAME}: line {line}"),
        None => NAME.to_owned(),
    };
    Error::new(ErrorKind::Template, message)
        .at(place)
        .with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_keep_their_trimming() {
        let source = "a {%- generation -%} b {% endgeneration %}{% if generation %}c{% endif %}";
        let expected = "a {%- if true -%} b {% endif %}{% if generation %}c{% endif %}";
        assert_eq!(without_generation_tags(source), expected);
        assert_eq!(
            without_generation_tags("endgeneration {% open"),
            "endgeneration {% open"
        );
    }
}
