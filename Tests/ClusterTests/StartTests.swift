import ClusterProcesses
import FlotillaTestSupport
import Glibc
import RaftCore
import Testing

/// raftd's command line, and what it refuses to start on.
@Suite("Starting raftd", .timeLimit(.minutes(1))) struct StartTests {
    private let directory = TemporaryDirectory()
    private let address = LoopbackPorts.take(1)[0]

    private func arguments(_ data: String, at address: NodeAddress? = nil) -> [String] {
        ["--listen", (address ?? self.address).description, "--data-dir", "\(directory.path)/\(data)"]
    }

    /// Starts a node and waits until it listens.
    private func start(_ arguments: [String], blocked: [Int32] = []) async throws -> ChildProcess {
        let file = directory.path + "/output"
        TemporaryDirectory.remove(file)
        let process = try ChildProcess(Tools.raftd, arguments, output: file, blocked: blocked)
        try await Wait.until("raftd listens") {
            if let status = process.exitStatus { throw Failed("raftd ended with \(status): \(try Files.text(file))") }
            return try Files.text(file).contains(" listens ")
        }
        return process
    }

    private func stop(_ process: ChildProcess) async throws {
        process.signal(SIGTERM)
        #expect(try await process.waitForExit() == 0)
    }

    /// Expects one line that says what is wrong.
    private func expectRefusal(_ arguments: [String], status: Int32, _ fragments: String...) async throws {
        let outcome = try await Tools.run(Tools.raftd, arguments)
        #expect(outcome.status == status)
        let lines = outcome.output.split(separator: "\n").filter { $0.hasPrefix("raftd: ") }
        #expect(lines.count == 1, "\(outcome.output)")
        for fragment in fragments {
            #expect(lines.first?.contains(fragment) == true, "\(outcome.output) does not say \(fragment)")
        }
    }

    @Test func aPortInUse() async throws {
        let node = try await start(arguments("a"))
        try await expectRefusal(arguments("b"), status: 1, "\(address) is in use", "--listen")
        try await stop(node)
    }

    @Test(arguments: [SIGTERM, SIGINT]) func aParentThatBlocksSignals(signal: Int32) async throws {
        let node = try await start(arguments("a"), blocked: [SIGTERM, SIGINT])
        node.signal(signal)
        #expect(try await node.waitForExit(timeout: .seconds(10)) == 0)
    }

    @Test func aDirectoryInUse() async throws {
        let node = try await start(arguments("a"))
        let other = LoopbackPorts.take(1)[0]
        try await expectRefusal(arguments("a", at: other), status: 1, "\(directory.path)/a is in use", "--data-dir")
        try await stop(node)
        // and free again afterwards
        try await stop(try await start(arguments("a")))
    }

    @Test func aDirectoryOfAnotherNode() async throws {
        try await stop(try await start(arguments("a")))
        let other = LoopbackPorts.take(1)[0]
        try await expectRefusal(
            arguments("a", at: other), status: 1, "belongs to the node \(address), not \(other)",
            "--advertise \(address)")
        // the way out that it names
        try await stop(try await start(arguments("a", at: other) + ["--advertise", address.description]))
    }

    @Test func aDamagedIdentity() async throws {
        try await stop(try await start(arguments("a")))
        try Files.overwrite("\(directory.path)/a/IDENTITY", at: 20, with: [0xff])
        try await expectRefusal(arguments("a"), status: 1, "\(directory.path)/a/IDENTITY is damaged", "--data-dir")
    }

    @Test func anIdentityThatIsMissing() async throws {
        try await stop(try await start(arguments("a")))
        #expect(unlink("\(directory.path)/a/IDENTITY") == 0)
        try await expectRefusal(
            arguments("a"), status: 1, "\(directory.path)/a/IDENTITY is damaged (it is missing", "--data-dir")
    }

    @Test func aDirectoryThatCannotBe() async throws {
        try Files.write([], to: "\(directory.path)/file")
        try await expectRefusal(arguments("file"), status: 1, "\(directory.path)/file: Not a directory")
    }

    @Test(arguments: [
        (["--no-such-flag", "1"], "unknown flag --no-such-flag"), (["--data-dir"], "--data-dir needs a value"),
        (["--listen", "nowhere", "--data-dir", "x"], "--listen does not take \"nowhere\""),
        (["--data-dir", "x", "--segment-mb", "0"], "--segment-mb does not take \"0\""),
        (["--data-dir", "x", "--log-level", "loud"], "--log-level does not take \"loud\""),
        (["stray"], "unexpected argument stray"), ([], "--data-dir is required"),
        (["--data-dir", "x", "--listen", "0.0.0.0:8101"], "--advertise is required"),
        (["--flagfile", "/no/such/file"], "cannot read the flag file /no/such/file"),
    ])
    func aCommandLineThatCannotBeUsed(arguments: [String], says: String) async throws {
        try await expectRefusal(arguments, status: 2, says, "raftd --help")
    }

    @Test func flagsFromAFile() async throws {
        let file = directory.path + "/flags"
        let text = """
            # as brpc's users write them
            --listen=\(address)
              --data_dir=\(directory.path)/a

            --log-level=debug
            """
        try Files.write(Array(text.utf8), to: file)
        let node = try await start(["--flagfile", file])
        #expect(try Files.list("\(directory.path)/a").contains("IDENTITY"))
        try await stop(node)
        try Files.write(Array("--flagfile=\(file)\n".utf8), to: file)
        try await expectRefusal(["--flagfile=\(file)"], status: 2, "include each other")
    }

    @Test func helpNamesEveryFlag() async throws {
        let outcome = try await Tools.run(Tools.raftd, ["--help"])
        #expect(outcome.status == 0)
        for flag in [
            "listen", "advertise", "data-dir", "controllers", "log-level", "engine", "segment-mb", "reserve-mb",
            "liveness-promise-ms", "max-clock-drift", "election-timeout-ms", "request-timeout-ms", "max-connections",
            "flagfile", "help", "zone", "no-cli", "busy-after-ms", "max-requests", "max-request-bytes",
        ] {
            #expect(outcome.output.contains("--\(flag)"), "--\(flag)")
        }
        // every flag says its default, but those that have none
        for paragraph in outcome.output.split(separator: "\n  --").dropFirst() {
            let name = String(paragraph.prefix { $0 != " " && $0 != "," })
            let hasNone = ["data-dir", "flagfile", "help"].contains(name)
            #expect(hasNone || paragraph.contains("(default") || paragraph.contains("(default:"), "\(paragraph)")
        }
        #expect(try await Tools.run(Tools.raftd, ["--version"]).output.hasPrefix("raftd "))
    }
}
