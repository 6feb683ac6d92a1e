//! Settings by name.

use super::*;

#[test]
fn settings_are_checked_with_their_bounds_in_the_message() {
    let model = open();
    let session = new_session(model);
    struct Case(&'static CStr, &'static CStr, i32, &'static str);
    let cases = [
        Case(
            c"budget_tokens",
            c"0",
            SKIM_STATUS_INVALID_ARGUMENT,
            "from 1 to",
        ),
        Case(
            c"budget_tokens",
            c"-1",
            SKIM_STATUS_INVALID_ARGUMENT,
            "whole number",
        ),
        Case(
            c"temperature",
            c"NaN",
            SKIM_STATUS_INVALID_ARGUMENT,
            "from 0 to 100",
        ),
        Case(
            c"temperature",
            c"hot",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a number",
        ),
        Case(
            c"route",
            c"fast",
            SKIM_STATUS_UNKNOWN_ROUTE,
            "this model knows",
        ),
        Case(
            c"stop",
            c"END",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a JSON list of strings",
        ),
        Case(
            c"depth",
            c"deep",
            SKIM_STATUS_INVALID_ARGUMENT,
            "expected full, exits, drafts",
        ),
        Case(
            c"logit_bias",
            c"[[1]]",
            SKIM_STATUS_INVALID_ARGUMENT,
            "a JSON list of",
        ),
        Case(
            c"threads",
            c"2",
            SKIM_STATUS_INVALID_ARGUMENT,
            "takes effect at open",
        ),
        Case(
            c"effort",
            c"2",
            SKIM_STATUS_INVALID_ARGUMENT,
            "known are: route,",
        ),
    ];
    for Case(key, value, status, part) in cases {
        let (got, message) = set(session, key, value).unwrap_err();
        assert_eq!(got, status, "{key:?} {message}");
        assert!(message.contains(part), "{message}");
    }
    let get = |key: &CStr| {
        string(
            call(|out, e| unsafe { skim_session_get_param(session, key.as_ptr(), out, e) })
                .unwrap(),
        )
    };
    for (key, value, json) in [
        (c"budget_tokens", c"120", "120"),
        (c"temperature", c"0.5", "0.5"),
        (c"route", c"skip", "\"skip\""),
        (c"depth", c"drafts", "\"drafts\""),
        (c"stop", c"[\"a\",\"b\"]", "[\"a\",\"b\"]"),
        (c"logit_bias", c"[[3,null],[4,0.5]]", "[[3,null],[4,0.5]]"),
        (c"seed", c"18446744073709551615", "18446744073709551615"),
    ] {
        let before = get(key);
        set(session, key, value).unwrap();
        assert_eq!(get(key), json);
        act(|e| unsafe { skim_session_set_param(session, key.as_ptr(), null(), e) }).unwrap();
        assert_eq!(get(key), before);
    }
    let bounds = call(|out, e| unsafe { skim_session_get_bounds(session, null(), out, e) });
    let bounds: Value = serde_json::from_str(&string(bounds.unwrap())).unwrap();
    let route = bounds
        .as_array()
        .unwrap()
        .iter()
        .find(|knob| knob["key"] == "route")
        .unwrap();
    assert!(
        route["values"].as_array().unwrap().contains(&json!("skip")),
        "{route}"
    );
    // What the model must know for it is looked at when a question is asked.
    append(session, QUESTION);
    set(session, c"depth", c"exits").unwrap();
    let (status, message) = act(|e| unsafe { skim_session_begin(session, e) }).unwrap_err();
    assert_eq!(status, SKIM_STATUS_INVALID_ARGUMENT);
    assert!(message.contains("has no `exits`"), "{message}");
    unsafe {
        skim_session_free(session);
        skim_model_free(model);
    }
}

#[test]
fn every_knob_takes_its_default_and_its_bounds() {
    let options = call(|out, e| unsafe { skim_options_new(out, e) }).unwrap();
    let all = call(|out, e| unsafe { skim_options_get_bounds(null(), out, e) }).unwrap();
    let all: Value = serde_json::from_str(&string(all)).unwrap();
    for knob in all.as_array().unwrap() {
        let key = CString::new(knob["key"].as_str().unwrap()).unwrap();
        let mut values = vec![
            knob["min"].clone(),
            knob["max"].clone(),
            knob["default"].clone(),
        ];
        values.extend(knob["values"].as_array().cloned().unwrap_or_default());
        for value in values.iter().filter(|value| !value.is_null()) {
            let text = value.as_str().map_or(value.to_string(), str::to_owned);
            let text = CString::new(text).unwrap();
            act(|e| unsafe { skim_options_set(options, key.as_ptr(), text.as_ptr(), e) }).unwrap();
            let back = call(|out, e| unsafe { skim_options_get(options, key.as_ptr(), out, e) });
            let back: Value = serde_json::from_str(&string(back.unwrap())).unwrap();
            let near = |a: &Value| {
                a.as_f64()
                    .zip(value.as_f64())
                    .is_some_and(|(a, b)| (a - b).abs() < 1e-6)
            };
            assert!(
                back == *value || near(&back),
                "{key:?}: {value} became {back}"
            );
        }
    }
    unsafe { skim_options_free(options) };
}
