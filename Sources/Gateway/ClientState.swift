internal import RaftCore

/// What a connection is to its server, as HELLO and CLIENT change and show it.
struct ClientState {
    let id: UInt64
    let address: String
    let connectedAt: Instant
    var version = ProtocolVersion.resp2
    var name = Bytes()
    var libraryName = Bytes()
    var libraryVersion = Bytes()

    init(id: UInt64, address: String, connectedAt: Instant) {
        self.id = id
        self.address = address
        self.connectedAt = connectedAt
    }

    /// The connection's line in CLIENT LIST, with those of Redis's fields that mean something here.
    func line(now: Instant) -> String {
        let age = max(0, (now - connectedAt).nanoseconds / 1_000_000_000)
        return "id=\(id) addr=\(address) name=\(name.text) age=\(age) flags=N db=0 resp=\(version.rawValue)"
            + " user=default lib-name=\(libraryName.text) lib-ver=\(libraryVersion.text)\n"
    }

    /// Whether `text` may be a name: it must fit into that line.
    static func isName(_ text: Bytes) -> Bool {
        text.count <= 1024 && text.array.allSatisfy { (UInt8(ascii: "!")...UInt8(ascii: "~")).contains($0) }
    }
}
