import CMessages
import CProtobufC
import FlotillaTestSupport
import RaftCore
import Testing
import WireMessages

@testable import RaftHost
@testable import Transport

/// Every kind of frame that four real brafts exchanged, against our decoders and encoders.
@Suite("Golden bytes")
struct GoldenTests {
    private static let files = ["RaftService.txt", "CliService.txt", "FileService.txt"]
    private let codec = FrameCodec()
    private let wire = RaftWire()

    private func peer(_ text: String?) throws -> PeerID { try #require(PeerID(text ?? "")) }

    // MARK: frames

    @Test("Every frame is cut and its metadata read as it stands there", arguments: files)
    func frames(_ file: String) throws {
        for golden in try GoldenFrame.all(of: file) {
            let whole = Bytes(golden.bytes + [UInt8](repeating: 0, count: golden.missing))
            guard case .frame(let frame) = Frame.next(in: whole, at: 0, bodyBytesMax: 64 << 20) else {
                Issue.record("no frame: \(golden)")
                continue
            }
            #expect(frame.bytes == whole.count, "\(golden)")
            let attachmentBytes = golden.frame.attachment.count
            let isRead: Void? = codec.decodeMeta(of: frame) { meta in
                #expect(meta.correlation_id == golden.frame.correlationID && meta.has_correlation_id != 0)
                #expect(Int(meta.attachment_size) == attachmentBytes, "\(golden)")
                #expect((meta.request != nil) == golden.isRequest && (meta.response == nil) == golden.isRequest)
                if let request = meta.request?.pointee {
                    #expect(String(cString: request.service_name) == golden.frame.service)
                    #expect(String(cString: request.method_name) == golden.method)
                } else {
                    #expect(meta.response?.pointee.error_code == 0, "\(golden)")
                }
                // 10, 11 and 12 are newer than what we know, and say the default
                #expect(FrameCodec.unsupportedFeature(of: meta) == nil, "\(golden)")
                #expect(meta.base.n_unknown_fields == 3, "brpc 1.17 fills three fields that we do not know")
            }
            #expect(isRead != nil, "\(golden)")
            #expect(frame.payload.array == golden.frame.body + golden.frame.attachment, "\(golden)")
        }
    }

    @Test("Our frame of the same content is braft's without the metadata that may be left out", arguments: files)
    func minimalFrames(_ file: String) throws {
        for golden in try GoldenFrame.all(of: file) where golden.missing == 0 {
            var expected = golden.frame
            for optional in [3, 10, 11, 12] { expected.meta = expected.meta.without(optional) }
            let (body, attachment) = (Bytes(golden.frame.body), Bytes(golden.frame.attachment))
            let encoding =
                golden.isRequest
                ? codec.encodeRequest(
                    service: try #require(golden.frame.service), method: golden.method,
                    correlationID: golden.frame.correlationID, body: .encoded(body), attachmentBytes: attachment.count)
                : codec.encodeReply(
                    correlationID: golden.frame.correlationID, body: .encoded(body), attachmentBytes: attachment.count)
            guard case .pieces(let head, let following) = encoding else {
                Issue.record("too large: \(golden)")
                continue
            }
            #expect(head.array + following.array + attachment.array == expected.encoded, "\(golden)")
        }
    }

    // MARK: every message

    @Test("Every message is read and written again byte for byte", arguments: files)
    func messages(_ file: String) throws {
        for golden in try GoldenFrame.all(of: file) {
            let descriptor = try #require(GoldenTests.descriptor(of: golden), "\(golden)")
            let body = golden.frame.body
            let message = body.withUnsafeBufferPointer {
                protobuf_c_message_unpack(descriptor, nil, body.count, $0.baseAddress)
            }
            let read = try #require(message, "\(golden)")
            defer { protobuf_c_message_free_unpacked(read, nil) }
            #expect(read.pointee.n_unknown_fields == 0, "\(golden)")
            #expect(Arena().packBase(read).array == body, "\(golden)")
            // numbers and labels, as the tests' own reader saw the fields
            for field in golden.message.fields {
                #expect(protobuf_c_message_descriptor_get_field(descriptor, UInt32(field.number)) != nil)
            }
        }
    }

    private static func descriptor<M>(
        of initialize: (UnsafeMutablePointer<M>?) -> Void
    ) -> UnsafePointer<ProtobufCMessageDescriptor>? {
        Arena().scope { arena in
            UnsafeRawPointer(arena.make(initialize)).assumingMemoryBound(to: ProtobufCMessage.self).pointee.descriptor
        }
    }

    private static func descriptor(of golden: GoldenFrame) -> UnsafePointer<ProtobufCMessageDescriptor>? {
        func choose<Request, Answer>(
            _ request: (UnsafeMutablePointer<Request>?) -> Void, _ answer: (UnsafeMutablePointer<Answer>?) -> Void
        ) -> UnsafePointer<ProtobufCMessageDescriptor>? {
            golden.isRequest ? descriptor(of: request) : descriptor(of: answer)
        }
        return switch golden.method {
        case "pre_vote", "request_vote":
            choose(braft__request_vote_request__init, braft__request_vote_response__init)
        case "append_entries":
            choose(braft__append_entries_request__init, braft__append_entries_response__init)
        case "timeout_now":
            choose(braft__timeout_now_request__init, braft__timeout_now_response__init)
        case "install_snapshot":
            choose(braft__install_snapshot_request__init, braft__install_snapshot_response__init)
        case "get_file": choose(braft__get_file_request__init, braft__get_file_response__init)
        case "get_leader":
            choose(braft__get_leader_request__init, braft__get_leader_response__init)
        case "snapshot": choose(braft__snapshot_request__init, braft__snapshot_response__init)
        case "transfer_leader":
            choose(braft__transfer_leader_request__init, braft__transfer_leader_response__init)
        case "add_peer": choose(braft__add_peer_request__init, braft__add_peer_response__init)
        case "change_peers":
            choose(braft__change_peers_request__init, braft__change_peers_response__init)
        case "remove_peer":
            choose(braft__remove_peer_request__init, braft__remove_peer_response__init)
        case "reset_peer":
            choose(braft__reset_peer_request__init, braft__reset_peer_response__init)
        default: nil
        }
    }

    // MARK: braft.RaftService, in the core's words

    @Test("Requests for votes, both ways", arguments: ["pre_vote", "request_vote"])
    func voteRequests(_ method: String) throws {
        let requests = try GoldenFrame.requests(method)
        #expect(requests.count >= 2)
        for golden in requests {
            let fields = golden.message
            let (to, request) = try wire.decodeVoteRequest(Bytes(golden.frame.body), isPreVote: method == "pre_vote")
            #expect(to.group == fields.text(1) && to.from == fields.text(2) && to.to == fields.text(3))
            #expect(request.isPreVote == (method == "pre_vote") && request.handOver == nil)
            #expect(request.term.rawValue == fields.integer(4))
            // the term is field 5, the index field 6
            #expect(request.last.term.rawValue == fields.integer(5))
            #expect(request.last.index.rawValue == fields.integer(6))
            let (from, receiver) = (try peer(to.from), try peer(to.to))
            let packed = wire.arena.scope { arena in
                arena.pack(wire.voteRequest(request, group: to.group, from: from, to: receiver, arena: arena))
            }
            #expect(packed.array == golden.frame.body, "\(golden)")
        }
    }

    @Test("Answers to requests for votes", arguments: ["pre_vote", "request_vote"])
    func voteAnswers(_ method: String) throws {
        for golden in try GoldenFrame.answers(method) {
            let request = VoteRequest(isPreVote: method == "pre_vote", term: Term(3), last: .zero)
            let answer = try #require(wire.decodeVoteReply(Bytes(golden.frame.body), to: request))
            #expect(answer.term.rawValue == golden.message.integer(1))
            #expect(answer.granted == golden.message.isSet(2) && answer.isPreVote == request.isPreVote)
            #expect((answer.details?.isDisrupted ?? false) == golden.message.isSet(3))
            let details = VoteDetails(
                isDisrupted: golden.message.isSet(3) ?? false, previousTerm: Term(golden.message.integer(4) ?? -1),
                isRejectedByLease: golden.message.isSet(5) ?? false)
            let ours = VoteReply(
                isPreVote: request.isPreVote, requestTerm: request.term, term: answer.term, granted: answer.granted,
                details: details)
            #expect(wire.packReply(.voteReply(ours)).array == golden.frame.body, "\(golden)")
        }
    }

    @Test("Appends, both ways: probes, payloads, configurations plain and joint") func appendRequests() throws {
        let requests = try GoldenFrame.requests("append_entries")
        #expect(requests.count >= 6)
        for golden in requests {
            let fields = golden.message
            let (to, request, entries) = try wire.decodeAppendRequest(
                Bytes(golden.frame.body), attachment: Bytes(golden.frame.attachment))
            #expect(to.group == fields.text(1) && to.from == fields.text(2) && to.to == fields.text(3))
            #expect(request.term.rawValue == fields.integer(4))
            #expect(request.previous.term.rawValue == fields.integer(5))
            #expect(request.previous.index.rawValue == fields.integer(6))
            #expect(request.commit.rawValue == fields.integer(8))
            let metas = fields.messages(7)
            #expect(request.entries.count == metas.count && entries.count == metas.count)
            var payload: [UInt8] = []
            for (position, (meta, entry)) in zip(metas, entries).enumerated() {
                #expect(entry.position.term.rawValue == meta.integer(1))
                #expect(entry.position.index == request.previous.index.advanced(by: position + 1))
                #expect(Int64(entry.kind.rawValue) == meta.integer(2))
                #expect(Int64(entry.payload.count) == meta.integer(4))
                #expect((entry.configuration?.peers.map(\.description) ?? []) == meta.texts(3))
                #expect((entry.configuration?.oldPeers.map(\.description) ?? []) == meta.texts(5))
                payload += entry.payload.array
            }
            #expect(payload == golden.frame.attachment)
            let (from, receiver) = (try peer(to.from), try peer(to.to))
            let packed = wire.arena.scope { arena in
                arena.pack(
                    wire.appendRequest(
                        group: to.group, from: from, to: receiver, term: request.term, previous: request.previous,
                        entries: entries[...], withPayloads: true, commit: request.commit, arena: arena))
            }
            #expect(packed.array == golden.frame.body, "\(golden)")
        }
        #expect(requests.contains { $0.message.messages(7).contains { !$0.texts(5).isEmpty } }, "a joint one")
        #expect(requests.contains { !$0.frame.attachment.isEmpty })
    }

    @Test("Answers to appends: of probes with last_log_index, of entries without") func appendAnswers() throws {
        let answers = try GoldenFrame.answers("append_entries")
        #expect(answers.count >= 4)
        for golden in answers {
            let fields = golden.message
            let ticket = AppendTicket(term: Term(2), previous: .zero, count: 0, round: 0)
            let answer = try #require(wire.decodeAppendReply(Bytes(golden.frame.body), to: ticket))
            #expect(answer.term.rawValue == fields.integer(1) && answer.success == fields.isSet(2))
            #expect(answer.lastIndex?.rawValue == fields.integer(3))
            #expect(answer.lastTerm == nil && answer.support == nil, "a braft says nothing of ours")
            // `readonly` is never true here, and may be left out
            #expect(wire.packReply(.appendReply(answer)).array == fields.without(4).encoded, "\(golden)")
        }
    }

    @Test("timeout_now, both ways") func timeoutNow() throws {
        let requests = try GoldenFrame.requests("timeout_now")
        #expect(requests.map { $0.message.isSet(5) } == [false, true])
        for golden in requests {
            let (to, request) = try wire.decodeTimeoutNowRequest(Bytes(golden.frame.body))
            #expect(request.term.rawValue == golden.message.integer(4))
            #expect(request.oldLeaderSteppedDown == golden.message.isSet(5))
            let (from, receiver) = (try peer(to.from), try peer(to.to))
            let packed = wire.arena.scope { arena in
                arena.pack(wire.timeoutNowRequest(request, group: to.group, from: from, to: receiver, arena: arena))
            }
            #expect(packed.array == golden.frame.body, "\(golden)")
        }
        for golden in try GoldenFrame.answers("timeout_now") {
            let answer = try #require(wire.decodeTimeoutNowReply(Bytes(golden.frame.body)))
            #expect(answer.term.rawValue == golden.message.integer(1) && answer.success == golden.message.isSet(2))
            #expect(wire.packReply(.timeoutNowReply(answer)).array == golden.frame.body)
        }
    }

    @Test("install_snapshot, both ways") func installSnapshot() throws {
        for golden in try GoldenFrame.requests("install_snapshot") {
            let fields = golden.message
            let meta = try #require(fields.messages(5).first)
            let (to, request, uri) = try wire.decodeSnapshotRequest(Bytes(golden.frame.body))
            #expect(to.group == fields.text(1) && request.term.rawValue == fields.integer(4))
            #expect(request.meta.last.index.rawValue == meta.integer(1))
            #expect(request.meta.last.term.rawValue == meta.integer(2))
            #expect(request.meta.configuration.peers.map(\.description) == meta.texts(3))
            #expect(request.meta.configuration.oldPeers.map(\.description) == meta.texts(4))
            #expect(uri == fields.text(6) && uri.contains("/-"), "the reader's number is negative")
            let (from, receiver) = (try peer(to.from), try peer(to.to))
            let packed = wire.arena.scope { arena in
                arena.pack(
                    wire.snapshotRequest(request, uri: uri, group: to.group, from: from, to: receiver, arena: arena))
            }
            #expect(packed.array == golden.frame.body)
        }
        for golden in try GoldenFrame.answers("install_snapshot") {
            let answer = try #require(wire.decodeSnapshotReply(Bytes(golden.frame.body)))
            #expect(answer.term.rawValue == golden.message.integer(1) && answer.success == golden.message.isSet(2))
            #expect(wire.packReply(.snapshotReply(answer)).array == golden.frame.body)
        }
    }

    // MARK: vectors

    @Test("A request for a vote in the name of a hand-over carries the disrupted leader as field 7")
    func disruptedLeader() throws {
        let leader = try peer("10.0.0.3:8100:0")
        let request = VoteRequest(
            isPreVote: false, term: Term(3), last: LogPosition(term: Term(1), index: LogIndex(7)),
            handOver: TermLeader(leader: leader, term: Term(2)))
        let (from, to) = (try peer("10.0.0.1:8100:0"), try peer("10.0.0.2:8100:0"))
        let packed = wire.arena.scope { arena in
            arena.pack(wire.voteRequest(request, group: "g1", from: from, to: to, arena: arena))
        }
        let expected = WireFields().text(1, "g1").text(2, "10.0.0.1:8100:0:0").text(3, "10.0.0.2:8100:0:0")
            .number(4, 3).number(5, 1).number(6, 7)
            .message(7, WireFields().text(1, "10.0.0.3:8100:0:0").number(2, 2))
        #expect(packed.array == expected.encoded)
        #expect(try wire.decodeVoteRequest(packed, isPreVote: false).1 == request)
    }

    @Test("V5: get_file and its answer, the attachment in segments") func getFile() throws {
        let request = Hex.bytes("08 2a 12 04 64 61 74 61 18 80 80 08 20 00 28 01")
        Arena().scope { arena in
            let message = arena.make(braft__get_file_request__init)
            message.pointee.reader_id = 42
            message.pointee.filename = arena.string("data")
            message.pointee.count = 131_072
            message.pointee.offset = 0
            (message.pointee.has_read_partly, message.pointee.read_partly) = (1, 1)
            #expect(arena.pack(message).array == request)
            let answer = arena.make(braft__get_file_response__init)
            answer.pointee.eof = 1
            (answer.pointee.has_read_size, answer.pointee.read_size) = (1, 5)
            #expect(arena.pack(answer).array == Hex.bytes("08 01 10 05"))
        }
        let attachment = Hex.bytes("00 00 00 00 00 00 00 00 00 00 00 05 68 65 6c 6c 6f")
        let encoding = codec.encodeReply(
            correlationID: 3, body: .encoded(Bytes(Hex.bytes("08 01 10 05"))), attachmentBytes: attachment.count)
        guard case .pieces(let head, let body) = encoding else {
            Issue.record("too large")
            return
        }
        let meta = Hex.bytes("12 02 08 00 20 03 28 11")
        #expect(head.array.suffix(meta.count) == meta[...])
        #expect(head.array + body.array == Hex.bytes("50 52 50 43 00 00 00 1d 00 00 00 08") + meta + body.array)
    }

    @Test("V6: a snapshot's meta and its list of files") func snapshotMeta() {
        Arena().scope { arena in
            let meta = arena.make(braft__snapshot_meta__init)
            (meta.pointee.last_included_index, meta.pointee.last_included_term) = (7, 1)
            meta.pointee.n_peers = 1
            meta.pointee.peers = arena.strings(["10.0.0.1:8100:0:0"])
            let file = arena.make(braft__local_snapshot_pb_meta__file__init)
            file.pointee.name = arena.string("data")
            file.pointee.meta = arena.make(braft__local_file_meta__init)
            let list = arena.make(braft__local_snapshot_pb_meta__init)
            list.pointee.meta = meta
            list.pointee.n_files = 1
            list.pointee.files = arena.array([Optional(file)])
            let expected =
                Hex.bytes("0a 17 08 07 10 01 1a 11") + Array("10.0.0.1:8100:0:0".utf8)
                + Hex.bytes("12 08 0a 04 64 61 74 61 12 00")
            #expect(expected.count == 35)
            #expect(arena.pack(list).array == expected)
        }
    }

    @Test("The list of files that a braft sent stands bare in one segment") func sentList() throws {
        let golden = try #require(try GoldenFrame.answers("get_file", in: "FileService.txt").first)
        let attachment = golden.frame.attachment
        #expect(attachment.prefix(8).allSatisfy { $0 == 0 }, "offset 0")
        let length = attachment[8..<12].reduce(0) { $0 << 8 | Int($1) }
        #expect(attachment.count == 12 + length && golden.message.integer(2) == Int64(length))
        let names = Arena().scope { arena -> [String]? in
            arena.unpack(braft__local_snapshot_pb_meta__init, Bytes(Array(attachment[12...]))).map { list in
                #expect(list.pointee.meta?.pointee.last_included_index == 9)
                return (0..<list.pointee.n_files).map { String(cString: list.pointee.files[$0]!.pointee.name) }
            }
        }
        #expect(names == ["extra.bin", "joiner_state"])
    }
}
