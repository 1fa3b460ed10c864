/// How much a log line matters; a node prints those at or above its level.
public enum LogLevel: Int, Comparable, Sendable, CaseIterable {
    /// Every step; for finding a bug.
    case debug
    /// What an operator wants to find afterwards: elections, peers, replicas.
    case info
    /// What an operator should look at.
    case warning
    /// What stops a group or the node.
    case error

    /// Order by weight.
    public static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }

    /// Parses `debug`, `info`, `warning` or `error`.
    public init?(_ name: String) {
        guard let level = LogLevel.allCases.first(where: { $0.name == name }) else { return nil }
        self = level
    }

    /// Its name in a line and in a flag.
    public var name: String {
        switch self {
        case .debug: "debug"
        case .info: "info"
        case .warning: "warning"
        case .error: "error"
        }
    }
}

/// Writes structured lines: `level message key=value …`. The sink adds time and takes them away; any thread.
public struct Logger: Sendable {
    /// Lines below it are not made.
    public var level: LogLevel
    private let sink: @Sendable (String) -> Void

    /// A logger that hands finished lines, without line break, to `sink`.
    public init(level: LogLevel, sink: @escaping @Sendable (String) -> Void) {
        self.level = level
        self.sink = sink
    }

    /// Says nothing.
    public static let silent = Logger(level: .error) { _ in }

    /// Prints a line if `level` is enabled. Values with spaces are quoted.
    public func log(
        _ level: LogLevel, _ message: @autoclosure () -> String, _ fields: @autoclosure () -> [(String, String)] = []
    ) {
        guard level >= self.level else { return }
        var line = level.name + " " + message()
        for (name, value) in fields() {
            let quoted = value.contains(" ") || value.isEmpty ? "\"" + value + "\"" : value
            line += " " + name + "=" + quoted
        }
        sink(line)
    }
}
