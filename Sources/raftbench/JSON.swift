/// A JSON object of members whose values are JSON already.
func jsonObject(_ members: [(name: String, value: String)]) -> String {
    "{" + members.map { "\"\($0.name)\":\($0.value)" }.joined(separator: ",") + "}"
}

/// A JSON array of values that are JSON already.
func jsonArray(_ values: [String]) -> String { "[\(values.joined(separator: ","))]" }
