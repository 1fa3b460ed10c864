import ClusterProcesses
import FlotillaTestSupport
import Glibc

/// Runs commands to their end.
enum Tools {
    /// What a command came to.
    struct Outcome {
        var status: Int32
        /// Standard output and standard error, as they came.
        var output: String
    }

    static func run(
        _ executable: String, _ arguments: [String], timeout: Duration = .seconds(60)
    ) async throws -> Outcome {
        let directory = TemporaryDirectory()
        let file = directory.path + "/output"
        let process = try ChildProcess(executable, arguments, output: file)
        let status = try await process.waitForExit(timeout: timeout)
        return Outcome(status: status, output: try Files.text(file))
    }

    /// The server, built beside the tests.
    static let raftd = besideTheTests("raftd")

    /// The operator's tool, built beside the tests.
    static let raftctl = besideTheTests("raftctl")

    /// A command of the system, by its name; nil if it is not installed.
    static func installed(_ name: String) -> String? {
        ["/usr/bin/", "/usr/local/bin/", "/bin/"].map { $0 + name }.first { access($0, X_OK) == 0 }
    }

    /// The directory of these tests' sources.
    static let sources = String(#filePath.dropLast("/Support/Tools.swift".count))

    private static func besideTheTests(_ name: String) -> String {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = buffer.withUnsafeMutableBytes { memory in
            memory.withMemoryRebound(to: CChar.self) { text in
                text.baseAddress.map { readlink("/proc/self/exe", $0, text.count) } ?? 0
            }
        }
        precondition(count > 0, "nobody knows where the tests are (errno \(errno))")
        var directory = String(decoding: buffer[0..<count], as: UTF8.self)
        while let slash = directory.lastIndex(of: "/") {
            directory = String(directory[..<slash])
            let path = "\(directory)/\(name)"
            var status = stat()
            if stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG { return path }
        }
        preconditionFailure("\(name) is not built beside the tests")
    }
}
