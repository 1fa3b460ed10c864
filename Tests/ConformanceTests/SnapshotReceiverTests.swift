import FlotillaTestSupport
import RaftCore
import RaftHost
import Testing

extension Conformance {
    /// A scripted braft leads and offers snapshots.
    @Suite("Snapshots, offered") struct SnapshotReceiverTests {
        private func lead(_ stage: BraftStage, on caller: RawCaller) async throws {
            let entries: [BraftStage.Entry] = [
                .configuration(10, (0..<3).map(stage.peer)), .data(10, "one"), .data(10, "two"),
            ]
            #expect(try await stage.send(entries, term: 10, commit: 3, on: caller).isSet(2) == true)
        }

        private func offer(
            _ stage: BraftStage, term: Int64 = 10, last: (term: Int64, index: Int64) = (10, 50), peers: [String]? = nil,
            uri: String? = nil, from: Int = 1, on caller: RawCaller
        ) async throws -> BraftFrame {
            var meta = WireFields().number(1, last.index).number(2, last.term)
            for peer in peers ?? (0..<3).map(stage.peer) { meta = meta.text(3, peer) }
            let message = stage.addressing(from: stage.peer(from)).number(4, term).message(5, meta)
                .text(6, uri ?? "remote://\(stage.addresses[1])/-34361260997225")
            // this one may be busy for good, so that it is not asked again for that
            return try caller.call("install_snapshot", message)
        }

        @Test("An older term is refused with the newer one") func olderTerm() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let answer = try await offer(stage, term: 9, last: (9, 50), on: caller)
                #expect(answer.errorCode == 0)
                #expect(WireFields(answer.body) == WireFields().number(1, 10).flag(2, false))
            }
        }

        @Test("Two leaders of a term: refused with the next term") func twoLeaders() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                let answer = try await offer(stage, from: 2, on: caller)
                #expect(answer.errorCode == 0)
                let reply = WireFields(answer.body)
                #expect(reply?.isSet(2) == false && reply?.integer(1) == 11, "\(answer)")
            }
        }

        @Test("What is not newer than what is committed here is a success at once, again and again")
        func notNewer() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for index in [3, 3, 2, 1] as [Int64] {
                    let answer = try await offer(stage, last: (10, index), on: caller)
                    #expect(answer.errorCode == 0, "\(answer.errorText)")
                    #expect(WireFields(answer.body) == WireFields().number(1, 10).flag(2, true))
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
            }
        }

        @Test("A uri that cannot be used is an error, and the node goes on as it was") func unusable() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for uri in [
                    "", "remote://", "remote:///", "remote://\(stage.addresses[1])",
                    "remote://\(stage.addresses[1])//1",
                    "remote://nowhere/1", "file:///etc/passwd", "flotilla://10.0.0.9:1/1",
                    "remote://\(stage.addresses[1])/99999999999999999999",
                ] {
                    let answer = try await offer(stage, uri: uri, on: caller)
                    #expect(answer.errorCode != 0 || WireFields(answer.body)?.isSet(2) == false, "'\(uri)'")
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
                #expect(try await stage.send([.data(10, "x")], term: 10, after: (10, 3), on: caller).isSet(2) == true)
            }
        }

        @Test("A meta without members, with bad ones, or out of every range is refused") func badMeta() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try await lead(stage, on: caller)
                for (peers, last) in [
                    ([], (10, 50)), (["host:1:0"], (10, 50)), (nil, (11, 50)), (nil, (0, 50)), (nil, (10, 0)),
                    (nil, (10, -1)), (nil, (.max, .max)), (nil, (10, .max)),
                ] as [([String]?, (Int64, Int64))] {
                    let answer = try await offer(stage, last: last, peers: peers, on: caller)
                    #expect(answer.errorCode != 0 || WireFields(answer.body)?.isSet(2) == false, "\(last)")
                }
                #expect(try await stage.state().lastIndex == LogIndex(3))
                #expect(try await stage.send([.data(10, "x")], term: 10, after: (10, 3), on: caller).isSet(2) == true)
            }
        }
    }
}
