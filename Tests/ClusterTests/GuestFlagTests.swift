import ClusterProcesses
import FlotillaTestSupport
import Testing

extension Clusters {
    @Suite("Flags of guests") struct GuestFlagTests {
        @Test(
            "What cannot be meant ends the program with a sentence, before anything is made",
            arguments: [
                (["--guest-group", ""], "--guest-group does not take"),
                (["--guest-group", "controller"], "--guest-group does not take"),
                (["--guest-group", "g", "--guest-group", "g"], "--guest-group does not take"),
                (["--guest-group", "a\u{1}b"], "--guest-group does not take"),
                (["--guest-group", String(repeating: "x", count: 256)], "--guest-group does not take"),
                (["--peers", "127.0.0.1:1"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:1,"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:1,127.0.0.1:1:0"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:1:-1"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "0.0.0.0:1"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "host:1"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:1:0:2"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:1", "--peers", "127.0.0.1:2"], "--peers does not take"),
                (["--guest-group", "g", "--peers", "127.0.0.1:8101:0:1"], "can be no witness"),
                (["--guest-group", "g", "--peers", "127.0.0.1:8101,127.0.0.1:8101:1"], "more than once"),
                (["--guest-group", "g", "--engine", "memory"], "needs --engine rocksdb"),
                (["--guest-group", "g", "--drop-guest-group", "g"], "to be dropped and to be a guest"),
                (["--guest-idx", "1"], "--guest-idx does not take"),
                (["--guest-group", "g", "--guest-idx", "-1"], "--guest-idx does not take"),
                (["--guest-group", "g", "--guest-idx", "4294967296"], "--guest-idx does not take"),
            ] as [([String], String)])
        func refused(_ flags: [String], _ sentence: String) async throws {
            let directory = TemporaryDirectory()
            let outcome = try await Tools.run(Tools.raftd, ["--data-dir", directory.path + "/node"] + flags)
            #expect(outcome.status == 2 && outcome.output.contains(sentence), "\(outcome)")
            #expect(try Files.list(directory.path).isEmpty)
        }
    }
}
