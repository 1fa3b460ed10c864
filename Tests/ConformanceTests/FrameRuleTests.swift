import FlotillaTestSupport
import RaftCore
import Testing

extension Conformance {
    /// What a server of brpc does with each kind of frame, asked of a node over a socket.
    @Suite("Frames") struct FrameRuleTests {
        private static let noOne = "10.9.9.9:1:0:0"

        /// A well-formed call, which is refused in the service: nobody has that name.
        private func call(_ id: Int64, method: String = "pre_vote", service: String = "braft.RaftService") -> [UInt8] {
            let body = WireFields().text(1, "g").text(2, FrameRuleTests.noOne).text(3, FrameRuleTests.noOne)
                .number(4, 1).number(5, 0).number(6, 0)
            return BraftFrame(service: service, method: method, correlationID: id, body: body.encoded).encoded
        }

        /// Whether the connection still serves.
        private func expectServed(_ caller: RawCaller, _ place: SourceLocation = #_sourceLocation) throws {
            caller.send(call(4711))
            #expect(try caller.answer(to: 4711).errorCode == 2, sourceLocation: place)
        }

        private func word(_ number: UInt32) -> [UInt8] {
            (0..<4).map { UInt8(truncatingIfNeeded: number >> (24 - 8 * $0)) }
        }

        @Test("Part of a header waits for more, however little") func partOfAHeader() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                let frame = call(1)
                for cut in [1, 3, 4, 11, 12, 40] {
                    caller.send(Array(frame[..<cut]))
                    try await Task.sleep(for: .milliseconds(20))
                    caller.send(Array(frame[cut...]))
                    #expect(try caller.answer(to: 1).errorCode == 2, "cut at \(cut)")
                }
            }
        }

        @Test("A body above 64 MiB closes the connection without an answer, one of 64 MiB does not")
        func oversizedBody() async throws {
            try await BraftStage.run { stage in
                let tooLarge = try stage.connect()
                tooLarge.send(Array("PRPC".utf8) + word((64 << 20) + 1) + word(0))
                #expect(tooLarge.next() == nil && tooLarge.endsInTime())
                let largest = try stage.connect(timeoutMilliseconds: 300)
                largest.send(Array("PRPC".utf8) + word(64 << 20) + word(0))
                #expect(largest.next() == nil && !largest.endsInTime(), "it waits for the rest")
                try expectServed(try stage.connect())
            }
        }

        @Test("Metadata larger than the body, and metadata that is none, end the connection without an answer")
        func brokenMetadata() async throws {
            try await BraftStage.run { stage in
                for rest in [
                    word(1) + word(2) + [0], word(2) + word(2) + [0x0a, 0xff],
                    // a request that names no method
                    word(5) + word(5) + [0x0a, 0x03, 0x0a, 0x01, 0x61],
                ] {
                    let caller = try stage.connect()
                    caller.send(Array("PRPC".utf8) + rest)
                    #expect(caller.next() == nil && caller.endsInTime(), "\(rest)")
                }
                for magic in ["HULU", "STRM", "PRPX", "\u{16}\u{3}"] {
                    let caller = try stage.connect()
                    caller.send(Array(magic.utf8) + word(0) + word(0))
                    #expect(caller.next() == nil && caller.endsInTime(), "\(magic)")
                }
                try expectServed(try stage.connect())
            }
        }

        @Test("Metadata without a request is answered with 1001") func noRequest() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                caller.send(BraftFrame(meta: WireFields().number(4, 5)).encoded)
                #expect(try caller.answer(to: 5).errorCode == 1001)
                try expectServed(caller)
            }
        }

        @Test("An attachment larger than what is there is answered with 1003, and the connection lives")
        func attachmentThatDoesNotFit() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                for size in [Int64(1), 1000, -1, Int64(Int32.max)] {
                    var frame = BraftFrame(service: "braft.RaftService", method: "pre_vote", correlationID: size)
                    frame.meta = frame.meta.number(5, size)
                    caller.send(frame.encoded)
                    #expect(try caller.answer(to: size).errorCode == 1003, "\(size)")
                }
                try expectServed(caller)
            }
        }

        @Test("A message that does not parse, or lacks a required field, is answered with 1003")
        func unparsableMessage() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                var id: Int64 = 0
                for method in ["pre_vote", "request_vote", "append_entries", "install_snapshot", "timeout_now"] {
                    let whole = stage.addressing().number(4, 1)
                    for body in [[], [0xff, 0xff, 0xff], whole.without(3).encoded, Array(whole.encoded.dropLast(5))] {
                        id += 1
                        caller.send(
                            BraftFrame(service: "braft.RaftService", method: method, correlationID: id, body: body)
                                .encoded)
                        #expect(try caller.answer(to: id).errorCode == 1003, "\(method)")
                    }
                }
                try expectServed(caller)
            }
        }

        @Test("Fields that nobody knows are ignored, in the metadata and in the message") func unknownFields()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                let body = stage.vote(term: 1).text(500, "new").number(77, 1)
                var frame = BraftFrame(
                    service: "braft.RaftService", method: "pre_vote", correlationID: 9, body: body.encoded)
                // as brpc 1.17 fills it, with user fields, and two that are newer still
                frame.meta = frame.meta.number(3, 0).message(9, WireFields().text(1, "k").text(2, "v"))
                    .number(10, 0).number(11, 0).text(12, "").flag(13, false).number(99, 7)
                for id in 100..<200 as Range<Int64> {
                    frame.meta = frame.meta.without(4).number(4, id)
                    caller.send(frame.encoded)
                    let answer = try caller.answer(to: id)
                    // who asks is found out first
                    guard answer.errorCode == 11 else {
                        #expect(answer.errorCode == 0 && WireFields(answer.body)?.isSet(2) != nil)
                        return
                    }
                    try await Task.sleep(for: .milliseconds(20))
                }
                Issue.record("never answered")
            }
        }

        @Test("A kind of entry that nobody knows makes the whole request 1003, and so does kind 0")
        func unknownKind() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                for kind in [0, 4, 99] as [Int64] {
                    let entry = BraftStage.Entry(meta: WireFields().number(1, 1).number(2, kind).number(4, 0))
                    let answer = try await stage.ask(
                        "append_entries", stage.append(term: 9, entries: [.data(9, "x"), entry]),
                        attachment: Array("x".utf8), on: caller)
                    #expect(answer.errorCode == 1003, "\(kind)")
                }
                let status = try await stage.state()
                #expect(status.lastIndex == .zero && status.term < Term(9))
                try expectServed(caller)
            }
        }

        @Test("1002 for an unknown full name and for a method, 1001 for an unknown short name; a short name is found")
        func names() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                let cases: [(String, String, Int64)] = [
                    ("braft.NoService", "pre_vote", 1002), ("NoService", "pre_vote", 1001), ("", "pre_vote", 1001),
                    ("braft.RaftService", "no_method", 1002), ("braft.RaftService", "Pre_Vote", 1002),
                    ("RaftService", "pre_vote", 2), ("raftservice", "pre_vote", 1001),
                    ("flotilla.NoService", "hello", 1002),
                ]
                for (position, (service, method, code)) in cases.enumerated() {
                    caller.send(call(Int64(position + 1), method: method, service: service))
                    let answer = try caller.answer(to: Int64(position + 1))
                    #expect(answer.errorCode == code, "\(service).\(method)")
                }
            }
        }

        @Test("A failure is metadata only, and its text is decorated with address and number") func failureReply()
            async throws
        {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                caller.send(call(3))
                let answer = try caller.answer(to: 3)
                #expect(answer.body.isEmpty && answer.attachment.isEmpty && answer.meta.integer(5) == nil)
                #expect(answer.errorText == "[\(stage.addresses[0])][E2]peer_id not exist")
            }
        }

        @Test("The order of checks: attachment, then names, then the message") func orderOfChecks() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                var frame = BraftFrame(service: "no.Service", method: "m", correlationID: 1, body: [0xff])
                caller.send(frame.encoded)
                #expect(try caller.answer(to: 1).errorCode == 1002, "names before the message")
                frame.meta = frame.meta.without(4).number(4, 2).number(5, 50)
                caller.send(frame.encoded)
                #expect(try caller.answer(to: 2).errorCode == 1003, "the attachment before names")
            }
        }

        @Test("Correlation ids come back as they were sent, whatever they are") func correlationIDs() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                for id in [0, -1, Int64.min, Int64.max, 4_294_967_298] {
                    caller.send(call(id))
                    #expect(try #require(caller.next()).correlationID == id)
                }
            }
        }

        @Test("Many requests in one piece are all answered") func pipelined() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                var stream: [UInt8] = []
                for id in 1...200 as ClosedRange<Int64> {
                    stream += call(id, service: id % 3 == 0 ? "braft.NoService" : "braft.RaftService")
                }
                // the last one cut short: what stands before it is answered nevertheless
                caller.send(stream + call(201).dropLast(7))
                var codes: [Int64: Int64] = [:]
                while codes.count < 200, let answer = caller.next() { codes[answer.correlationID] = answer.errorCode }
                #expect(codes.count == 200)
                for (id, code) in codes { #expect(code == (id % 3 == 0 ? 1002 : 2)) }
                caller.send(Array(call(201).suffix(7)))
                #expect(try caller.answer(to: 201).errorCode == 2)
            }
        }

        @Test("Whoever goes away in the middle of a frame, or before the answer, harms nobody") func goneCallers()
            async throws
        {
            try await BraftStage.run { stage in
                let bystander = try stage.connect()
                for cut in stride(from: 1, to: call(1).count, by: 9) {
                    let caller = try stage.connect()
                    caller.send(call(1) + call(2)[..<cut])
                }
                try expectServed(bystander)
                try expectServed(try stage.connect())
            }
        }

        @Test("A connection stays open without traffic") func idleConnection() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                try expectServed(caller)
                try await Task.sleep(for: .milliseconds(1500))
                try expectServed(caller)
            }
        }

        @Test("Compression, checksums and content other than protobuf, which no braft uses, are refused with 1003")
        func unsupportedFeatures() async throws {
            try await BraftStage.run { stage in
                let caller = try stage.connect()
                for (id, field) in [(1, 3), (2, 10), (3, 11)] as [(Int64, Int)] {
                    var frame = try #require(BraftFrame(call(id)))
                    frame.meta = frame.meta.number(field, 1)
                    caller.send(frame.encoded)
                    #expect(try caller.answer(to: id).errorCode == 1003, "field \(field)")
                }
                for (type, name) in [
                    (1, " 1 (snappy) "), (2, " 2 (gzip) "), (3, " 3 (zlib) "), (4, " 4 (lz4) "), (-1, " -1 "),
                ] {
                    var frame = try #require(BraftFrame(call(10)))
                    frame.meta = frame.meta.without(3).number(3, Int64(type))
                    caller.send(frame.encoded)
                    let answer = try caller.answer(to: 10)
                    #expect(answer.errorCode == 1003 && answer.errorText.contains(name), "\(answer)")
                }
                try expectServed(caller)
            }
        }
    }
}

/// One after the other: each has a node and two members of its own.
@Suite("Conformance with braft, over sockets", .serialized, .timeLimit(.minutes(5))) enum Conformance {}
