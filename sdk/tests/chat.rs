//! Chat templates: those of real models against their known formats, and hostile ones.

mod common;

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;
use skimstone::{ChatOptions, ChatTemplate, ErrorKind, Message};

fn template(source: &str) -> ChatTemplate {
    let tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
    ChatTemplate::new(source, tokens).unwrap()
}

fn conversation() -> Vec<Message> {
    vec![
        Message::system("Be brief."),
        Message::user("How long did I sleep?"),
        Message::assistant("<think>\n6 h 30 min\n</think>\n\n6.5 hours."),
        Message::user("Enough?"),
    ]
}

/// Small, and uses what real templates use.
const OWN: &str = r#"{{ bos_token }}{% for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' + message.role) }}
    {%- endif %}
    {%- if message.role == 'assistant' %}
        {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
    {%- else %}
        {%- set content = message.content %}
    {%- endif %}
    {%- if loop.index0 > 9 %}{% break %}{% endif %}
<|{{ message.role }}|>
{{ content }}
{% endfor %}
{% if tools %}
{{ tools | tojson }}
{% endif %}
{% if add_generation_prompt %}
<|assistant|>{{ never_defined }}
{% endif %}
"#;

#[test]
fn own_template() {
    let prompt = template(OWN)
        .render(&conversation(), &ChatOptions::default())
        .unwrap();
    assert_eq!(
        prompt,
        "<s><|system|>\nBe brief.\n<|user|>\nHow long did I sleep?\n<|assistant|>\n6.5 hours.\n<|user|>\nEnough?\n<|assistant|>\n"
    );
    let options = ChatOptions {
        add_generation_prompt: false,
        tools: vec![json!({"name": "stages", "args": ["a<b", 1.5, true, null]})],
        ..ChatOptions::default()
    };
    let prompt = template(OWN)
        .render(&[Message::user("ü")], &options)
        .unwrap();
    assert_eq!(
        prompt,
        "<s><|user|>\nü\n[{\"name\": \"stages\", \"args\": [\"a<b\", 1.5, true, null]}]\n"
    );

    let error = template(OWN)
        .render(&[Message::new("robot", "")], &options)
        .unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Template, "unknown role robot")
    );
    assert_eq!(error.place(), Some("chat template: line 3"));
}

#[test]
fn time_is_an_input() {
    let now = Some(UNIX_EPOCH + Duration::from_secs(951_782_400));
    let options = ChatOptions {
        now,
        ..ChatOptions::default()
    };
    let prompt = template("{{ strftime_now('%d %B %Y') }}")
        .render(&[], &options)
        .unwrap();
    assert_eq!(prompt, "29 February 2000");
}

#[test]
fn generation_marks_print_nothing() {
    let source = "{%- for m in messages -%}{%- generation -%} {{ m.content }} {%- endgeneration -%}{%- endfor -%}";
    assert_eq!(
        template(source)
            .render(&conversation()[1..2], &ChatOptions::default())
            .unwrap(),
        "How long did I sleep?"
    );
}

#[test]
fn hostile_templates_end_in_an_error() {
    let render = |source: &str| {
        template(source)
            .render(&conversation(), &ChatOptions::default())
            .unwrap_err()
    };
    let error = render(
        "{% for a in range(9999) %}{% for b in range(9999) %}{{ a }}{% endfor %}{% endfor %}",
    );
    assert!(error.to_string().contains("did not end within"), "{error}");
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ messages[0].content.nothing() }}",
        "{{ messages | unknown }}",
        "{{ undefined_function() }}",
        "{{ 'x' * 999999999 }}",
        "{% include 'chat template' %}",
    ] {
        let result = ChatTemplate::new(source, BTreeMap::new())
            .and_then(|template| template.render(&conversation(), &ChatOptions::default()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Template, "{source}");
    }
    for source in ["{% if %}", "{{", "{% endfor %}", "{% generation %}", "{%"] {
        assert_eq!(
            ChatTemplate::new(source, BTreeMap::new())
                .unwrap_err()
                .kind(),
            ErrorKind::Template,
            "{source}"
        );
    }
}

fn real(name: &str) -> Option<ChatTemplate> {
    let path = common::data(&format!("tokenizers/chat_templates/{name}.jinja"))?;
    Some(template(&std::fs::read_to_string(path).unwrap()))
}

#[test]
fn qwen2_5() {
    let Some(template) = real("Qwen-Qwen2.5-7B-Instruct") else {
        return;
    };
    let render = |messages: &[Message]| template.render(messages, &ChatOptions::default()).unwrap();
    assert_eq!(
        render(&[Message::user("Hi")]),
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n\
         <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    );
    assert_eq!(
        render(&[
            Message::system("Be brief."),
            Message::user("Hi"),
            Message::assistant("Yes?"),
            Message::user("Bye")
        ]),
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
         <|im_start|>assistant\nYes?<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n"
    );
}

#[test]
fn qwen3() {
    let Some(template) = real("Qwen-Qwen3-0.6B") else {
        return;
    };
    let head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow long did I sleep?<|im_end|>\n\
                <|im_start|>assistant\n6.5 hours.<|im_end|>\n<|im_start|>user\nEnough?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(
        template
            .render(&conversation(), &ChatOptions::default())
            .unwrap(),
        head
    );
    let options = ChatOptions {
        enable_thinking: Some(false),
        ..ChatOptions::default()
    };
    assert_eq!(
        template.render(&conversation(), &options).unwrap(),
        format!("{head}<think>\n\n</think>\n\n")
    );

    let call =
        json!({"type": "function", "function": {"name": "stages", "arguments": {"night": 3}}});
    let messages = [
        Message::user("Stages?"),
        Message {
            tool_calls: vec![call],
            ..Message::assistant("")
        },
        Message::new("tool", "deep 80"),
    ];
    let tool = json!({"type": "function", "function": {"name": "stages"}});
    let options = ChatOptions {
        tools: vec![tool],
        ..ChatOptions::default()
    };
    let prompt = template.render(&messages, &options).unwrap();
    assert!(
        prompt.contains(
            "<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"stages\"}}\n</tools>"
        ),
        "{prompt}"
    );
    // The template shows empty thinking for the last message only.
    assert!(
        prompt.ends_with(
            "<|im_start|>assistant\n<tool_call>\n{\"name\": \"stages\", \"arguments\": {\"night\": 3}}\n\
             </tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\ndeep 80\n</tool_response><|im_end|>\n\
             <|im_start|>assistant\n"
        ),
        "{prompt}"
    );
}

#[test]
fn the_other_real_templates_render() {
    for (name, end) in [
        ("HuggingFaceTB-SmolLM3-3B", "<|im_start|>assistant\n"),
        ("Qwen-QwQ-32B", "<|im_start|>assistant\n<think>\n"),
        (
            "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B",
            "Enough?<｜Assistant｜><think>\n",
        ),
    ] {
        let Some(template) = real(name) else { return };
        let options = ChatOptions {
            enable_thinking: Some(true),
            ..ChatOptions::default()
        };
        let prompt = template.render(&conversation(), &options).unwrap();
        assert!(prompt.ends_with(end), "{name}: {prompt}");
        for part in ["Be brief.", "How long did I sleep?", "6.5 hours."] {
            assert_eq!(prompt.matches(part).count(), 1, "{name}: {prompt}");
        }
    }
}
