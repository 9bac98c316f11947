//! The access log of a `MeshConfig`.

use super::findings::Findings;
use super::values::Zero;
use crate::diagnostic::codes;
use crate::ir::{FormatError, LogFormat, LogSink, LogText, LogValue, ResponseFlag};
use crate::rules::{AccessLog, AccessLogFilter, CustomLogFormat, Path, closest};

pub(super) fn check(log: &AccessLog, at: &Path, found: &mut Findings) {
    let AccessLog { format, custom, filter, path, sensitive: _ } = log;
    if let Some(custom) = custom {
        if format.is_some() {
            let help = "leave `format` out: `custom` says all of it";
            found.add(codes::EXCLUSIVE, &at.key("format"), "`format` stands beside `custom`").help(help);
        }
        check_custom(custom, &at.key("custom"), found);
    }
    if let Some(filter) = filter {
        check_filter(filter, &at.key("filter"), found);
    }
    if let Some(Err(invalid)) = path.as_deref().map(LogSink::at) {
        let help = "write `/var/log/leno/access.log`, or leave it out for standard output";
        found.add(codes::PATH, &at.key("path"), invalid.to_string()).help(help);
    }
}

fn check_custom(custom: &CustomLogFormat, at: &Path, found: &mut Findings) {
    let CustomLogFormat { text, json } = custom;
    match (text, json.is_empty()) {
        (Some(text), true) => check_text(text, &at.key("text"), found),
        (Some(_), false) => {
            found.add(codes::EXCLUSIVE, at, "`text` and `json` stand together; a line has one form");
        }
        (None, true) => {
            let help = "write `custom: {text: \"%REQ(:METHOD)% %RESPONSE_CODE%\"}` or `custom: {json: {code: \"%RESPONSE_CODE%\"}}`";
            found.add(codes::REQUIRED, at, "a form of one's own says nothing").help(help);
        }
        (None, false) => {
            for (key, text) in json {
                check_text(text, &at.key("json").key(key), found);
            }
            let keys = json.keys().map(|key| (key.clone(), LogValue::Null));
            if let Err(error) = LogFormat::json(keys.collect()) {
                add(error, &at.key("json"), found);
            }
        }
    }
}

fn check_text(text: &str, at: &Path, found: &mut Findings) {
    if let Err(error) = LogText::parse(text) {
        add(error, at, found);
    }
}

fn add(FormatError { what, help }: FormatError, at: &Path, found: &mut Findings) {
    let finding = found.add(codes::LOG_FORMAT, at, what);
    if let Some(help) = help {
        finding.help(help);
    }
}

fn check_filter(filter: &AccessLogFilter, at: &Path, found: &mut Findings) {
    let AccessLogFilter { min_status, min_duration, sample, flags } = filter;
    found.duration(&at.key("minDuration"), min_duration.as_ref(), Zero::Allowed);
    if let Some(sample) = *sample {
        found.percentage(&at.key("sample"), sample);
    }
    if let Some(status) = min_status.filter(|status| !(100..=599).contains(status)) {
        let help = "a status is 100 to 599";
        found.add(codes::STATUS, &at.key("minStatus"), format!("{status} is not a status")).help(help);
    }
    for (index, flag) in flags.iter().enumerate() {
        if let Err(invalid) = ResponseFlag::parse(flag) {
            let help = match closest(flag, &ResponseFlag::ALL) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "`leno explain flag` knows all of them: UF, UH, UC, UT, …".to_owned(),
            };
            found.add(codes::UNKNOWN_WORD, &at.key("flags").index(index), invalid.to_string()).help(help);
        }
    }
}
