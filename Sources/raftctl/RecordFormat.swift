import RaftCore
import ShardMap

/// A key and its value, as a line of a file.
struct Record: Equatable, Sendable {
    var key: Bytes
    var value: Bytes
}

/// The line formats of import, export and verify.
enum RecordFormat: String, Sendable {
    /// Key, tab, value, with ``Escapes``.
    case tsv
    /// `{"key":"…","value":"…"}`, or `key_base64` and `value_base64` for bytes that are not UTF-8.
    case jsonl

    /// The format that was asked for, else the one of the file's name, else tsv.
    static func of(_ invocation: Invocation, path: String) throws(Failure) -> RecordFormat {
        guard let text = invocation.values["format"] else { return path.hasSuffix(".jsonl") ? .jsonl : .tsv }
        guard let format = RecordFormat(rawValue: text) else {
            throw .usage("--format takes tsv or jsonl, not '\(text)'")
        }
        return format
    }

    /// Appends the record's line, its end included.
    func append(_ record: Record, to output: inout [UInt8]) {
        switch self {
        case .tsv:
            Escapes.append(record.key, to: &output)
            output.append(UInt8(ascii: "\t"))
            Escapes.append(record.value, to: &output)
        case .jsonl:
            let members = [RecordFormat.member("key", record.key), RecordFormat.member("value", record.value)]
            JSON.object(members).append(to: &output)
        }
        output.append(UInt8(ascii: "\n"))
    }

    private static func member(_ name: String, _ bytes: Bytes) -> (String, JSON) {
        Escapes.isUTF8(bytes) ? (name, .string(bytes.text)) : ("\(name)_base64", .string(Base64.encoded(bytes)))
    }

    /// The record of a line without its end.
    func record(_ line: UnsafeRawBufferPointer) -> Result<Record, MalformedRecord> {
        let parsed =
            switch self {
            case .tsv: RecordFormat.tsvRecord(line)
            case .jsonl: RecordFormat.jsonRecord(line)
            }
        return parsed.flatMap { record in
            guard let violation = KeyOperation(.set, key: record.key, value: record.value).limitViolation else {
                return .success(record)
            }
            return .failure(MalformedRecord(violation.sentence))
        }
    }

    private static func tsvRecord(_ line: UnsafeRawBufferPointer) -> Result<Record, MalformedRecord> {
        guard let tab = line.firstIndex(of: UInt8(ascii: "\t")) else {
            return .failure(MalformedRecord("no tab between key and value"))
        }
        let value = UnsafeRawBufferPointer(rebasing: line[(tab + 1)...])
        guard !value.contains(UInt8(ascii: "\t")) else {
            return .failure(MalformedRecord("more than one tab; write a tab inside a value as \\t"))
        }
        guard let key = Escapes.bytes(UnsafeRawBufferPointer(rebasing: line[..<tab])), let value = Escapes.bytes(value)
        else {
            return .failure(MalformedRecord("a backslash that begins no escape; write it as \\\\"))
        }
        return .success(Record(key: key, value: value))
    }

    private static func jsonRecord(_ line: UnsafeRawBufferPointer) -> Result<Record, MalformedRecord> {
        guard String(validating: line, as: UTF8.self) != nil else { return .failure(MalformedRecord("not UTF-8")) }
        var reader = FlatObjectReader(line)
        guard let members = reader.members() else {
            return .failure(MalformedRecord("not an object of strings such as {\"key\":\"…\",\"value\":\"…\"}"))
        }
        var fields: [String: Bytes] = [:]
        for (name, text) in members {
            let isEncoded = name == "key_base64" || name == "value_base64"
            let field = isEncoded ? String(name.dropLast("_base64".count)) : name
            guard field == "key" || field == "value" else {
                return .failure(MalformedRecord("unknown member '\(name)'"))
            }
            guard fields[field] == nil else { return .failure(MalformedRecord("two members for the \(field)")) }
            guard let bytes = isEncoded ? Base64.decoded(text) : Bytes(text) else {
                return .failure(MalformedRecord("\(name) is not base64"))
            }
            fields[field] = bytes
        }
        guard let key = fields["key"] else { return .failure(MalformedRecord("no key")) }
        guard let value = fields["value"] else { return .failure(MalformedRecord("no value")) }
        return .success(Record(key: key, value: value))
    }
}

/// What is wrong with a line.
struct MalformedRecord: Error, Equatable {
    let reason: String
    init(_ reason: String) { self.reason = reason }
}
