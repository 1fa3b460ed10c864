import RaftCore

/// What an option is called, and what it says.
struct CommandOption: Sendable {
    /// Without dashes; `o` is written `-o`.
    let name: String
    /// What stands for its argument in help; nil: it takes none.
    let argument: String?
    /// One line.
    let help: String

    init(_ name: String, _ argument: String? = nil, _ help: String) {
        self.name = name
        self.argument = argument
        self.help = help
    }

    /// As it is written on a command line.
    var spelling: String { name.count == 1 ? "-\(name)" : "--\(name)" }
}

/// One command: how it is called, what help says about it, and what it does.
struct Command: Sendable {
    /// Its words, such as `kv get`.
    let path: [String]
    /// Its positional arguments as help shows them.
    var arguments = ""
    /// How many of them.
    var positionals = 0...0
    var options: [CommandOption] = []
    /// One line.
    let summary: String
    /// What else there is to know.
    var details = ""
    let run: @Sendable (Invocation) async throws(Failure) -> Void

    var name: String { path.joined(separator: " ") }
    /// Its name and its arguments.
    var synopsis: String { (path + (arguments.isEmpty ? [] : [arguments])).joined(separator: " ") }

    /// Every command, in the order of the help.
    static let all: [Command] =
        [
            .initialize, .status, .top, .why, .clusterStatus, .clusterUpgrade, .nodeList, .nodeDrain, .nodeResume,
            .nodeRemove, .nodeSafeToStop,
            .rebalance, .groupList, .groupShow, .groupVerify,
            .groupCreate, .groupDelete, .groupTransfer, .groupSnapshot,
            .shardList, .shardShow, .shardLocate, .shardSplit, .shardMerge, .shardMove,
            .operationList, .operationShow, .operationWait, .operationCancel,
            .get, .put, .delete, .scan, .importRecords, .exportRecords, .verify, .logDump, .logVerify,
        ] + memberCommands + resetCommands
}

/// How results are written.
enum OutputFormat: String, Sendable {
    /// Aligned columns, for people.
    case table
    /// One object, for programs.
    case json
}

/// A command as it was called.
struct Invocation: Sendable {
    /// Nodes to ask, in this order.
    var seeds: [NodeAddress]
    var format: OutputFormat
    /// How long one operation may take.
    var timeout: Interval
    var positionals: [String]
    /// By the option's name; a flag that is set is present with an empty text.
    var values: [String: String]

    func isSet(_ option: String) -> Bool { values[option] != nil }

    /// The option's whole number within `range`; nil if it was not given.
    func integer(_ option: String, in range: ClosedRange<Int>) throws(Failure) -> Int? {
        guard let text = values[option] else { return nil }
        guard let number = Int(text), range.contains(number) else {
            let limits =
                range.upperBound == .max ? "from \(range.lowerBound)" : "of \(range.lowerBound)…\(range.upperBound)"
            throw .usage("--\(option) takes a whole number \(limits), not '\(text)'")
        }
        return number
    }

    /// The option's number, without which the command makes no sense.
    func requiredInteger(_ option: String, in range: ClosedRange<Int>) throws(Failure) -> Int {
        guard let number = try integer(option, in: range) else { throw .usage("--\(option) is missing") }
        return number
    }
}
