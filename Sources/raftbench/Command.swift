/// One thing that can be measured: how it is called, and what it does.
struct Command: Sendable {
    /// The word that names it.
    var name: String
    /// What it measures, in one line.
    var summary: String
    var options: [CommandOption]
    var run: @Sendable (Arguments) async throws(UsageError) -> Report

    /// Everything that can be measured, in the order of the help.
    static let all = [
        kvCommand, groupsCommand, idleCommand, failoverCommand, overloadCommand, coreCommand, budgetCommand,
        logCommand, moveCommand, reportCommand,
    ]
}

/// What was measured.
struct Report {
    /// Lines of figures.
    var text: String
    /// Which bound, given on the command line, they break.
    var complaint: String?
}

/// An option `--name VALUE` of a command, `-o VALUE` if its name is a letter.
struct CommandOption: Sendable {
    var name: String
    /// What its value stands for; empty: it has none, and is there or not.
    var value: String
    var help: String

    /// As it is written on a command line.
    var spelling: String { name.count == 1 ? "-\(name)" : "--\(name)" }
}

/// What is wrong with a command line.
struct UsageError: Error {
    var text: String
}

/// The options of a command as they were given.
struct Arguments {
    private var values: [String: String] = [:]

    /// Reads `words`, all of which must be options of `command`.
    init(_ words: some Collection<String>, of command: Command) throws(UsageError) {
        var rest = words[...]
        while let word = rest.popFirst() {
            let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            guard let option = command.options.first(where: { $0.spelling == parts[0] }) else {
                throw UsageError(text: "raftbench \(command.name) has no option '\(parts[0])'")
            }
            guard !option.value.isEmpty || parts.count == 1 else {
                throw UsageError(text: "\(option.spelling) takes no value")
            }
            let following = option.value.isEmpty ? "" : parts.count > 1 ? String(parts[1]) : rest.popFirst()
            guard let value = following else { throw UsageError(text: "\(option.spelling) needs \(option.value)") }
            values[option.name] = value
        }
    }

    /// A number in `range`.
    func number(_ name: String, in range: ClosedRange<Int>, default standard: Int) throws(UsageError) -> Int {
        try number(name, in: range) ?? standard
    }

    /// A number in `range`, if it was given.
    func number(_ name: String, in range: ClosedRange<Int>) throws(UsageError) -> Int? {
        guard let text = values[name] else { return nil }
        guard let number = Int(text), range.contains(number) else { throw outside(name, range) }
        return number
    }

    /// Numbers in `range`, with commas between them.
    func numbers(_ name: String, in range: ClosedRange<Int>, default standard: [Int]) throws(UsageError) -> [Int] {
        guard let text = values[name] else { return standard }
        var numbers: [Int] = []
        for part in text.split(separator: ",", omittingEmptySubsequences: false) {
            guard let number = Int(part), range.contains(number) else { throw outside(name, range) }
            numbers.append(number)
        }
        return numbers
    }

    /// What was given, as it was given.
    func text(_ name: String) -> String? { values[name] }

    /// Whether it was given.
    func has(_ name: String) -> Bool { values[name] != nil }

    /// One of `words`, the first if none was given.
    func word(_ name: String, of words: [String]) throws(UsageError) -> String {
        let word = text(name) ?? words[0]
        guard words.contains(word) else {
            throw UsageError(text: "\(name.count == 1 ? "-" : "--")\(name) is \(words.joined(separator: " or "))")
        }
        return word
    }

    /// A number from 0 to 1.
    func share(_ name: String, default standard: Double) throws(UsageError) -> Double {
        guard let text = values[name] else { return standard }
        guard let share = Double(text), share >= 0, share <= 1 else {
            throw UsageError(text: "--\(name) is a number from 0 to 1")
        }
        return share
    }

    /// A time above zero.
    func seconds(_ name: String, default standard: Double) throws(UsageError) -> Double {
        guard let text = values[name] else { return standard }
        guard let seconds = Double(text), seconds > 0, seconds <= 3600 else {
            throw UsageError(text: "--\(name) is a number of seconds above 0, up to 3600")
        }
        return seconds
    }

    private func outside(_ name: String, _ range: ClosedRange<Int>) -> UsageError {
        UsageError(text: "--\(name) is \(range.lowerBound) to \(range.upperBound)")
    }
}
