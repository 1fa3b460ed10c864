/// A JSON object of members whose values are JSON already.
func jsonObject(_ members: [(name: String, value: String)]) -> String {
    "{" + members.map { "\"\($0.name)\":\($0.value)" }.joined(separator: ",") + "}"
}

/// A JSON array of values that are JSON already.
func jsonArray(_ values: [String]) -> String { "[\(values.joined(separator: ","))]" }

/// `text` as a JSON string.
func jsonString(_ text: String) -> String { "\"\(jsonEscaped(text))\"" }

/// `text` as it stands between the quotes of a JSON string.
func jsonEscaped(_ text: String) -> String {
    var escaped = ""
    for scalar in text.unicodeScalars {
        switch scalar {
        case "\"", "\\": escaped += "\\\(scalar)"
        case _ where scalar.value < 32:
            let digits = String(scalar.value, radix: 16)
            escaped += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
        default: escaped.unicodeScalars.append(scalar)
        }
    }
    return escaped
}
