//! JSON values.

use serde_json::Value;

/// Adds the members of `part` to `whole`, object by object; any other value of `part` replaces that of `whole`.
pub fn merge(whole: &mut Value, part: Value) {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                merge(whole.entry(name).or_insert(Value::Null), value);
            }
        }
        (whole, part) => *whole = part,
    }
}
