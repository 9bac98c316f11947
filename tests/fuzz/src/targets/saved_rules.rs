//! The control plane's file of rules in force (`rules.json`): the bytes are the file.

use leno_config::rules::Document;
use leno_config::rules::last_good::LastGood;

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "saved_rules",
    property: "what is restored is saved and restored again as the same rules, each on its line",
    check,
    words: &[r#"{"format":1,"files":["#, r#"{"file":"a.yaml","text":""#, r"\n", r"---\n", "kind: Service", "]}"],
};

fn check(data: &[u8]) {
    let Ok((restored, _)) = LastGood::restore(data) else { return };
    let saved = restored.save();
    let (again, problems) = LastGood::restore(&saved).expect("what was saved can be restored");
    assert_eq!(problems, [], "{}", String::from_utf8_lossy(&saved));
    let (before, after): (Vec<&Document>, Vec<&Document>) =
        (restored.documents().collect(), again.documents().collect());
    assert_eq!(before.len(), after.len());
    for (before, after) in before.into_iter().zip(after) {
        assert_eq!((&before.id, &before.rule, &before.place), (&after.id, &after.rule, &after.place));
    }
    assert_eq!(again.save(), saved);
}
