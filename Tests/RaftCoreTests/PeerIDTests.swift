import RaftCore
import Testing

@Suite("Names of members") struct PeerIDTests {
    @Test("a text is read alike, whether it is of the usual form or taken apart")
    func forms() {
        let octets = ["0", "1", "10", "255", "256", "1000", "", "+1", "-1", "a", "001", "0001"]
        let ports = ["0", "80", "65535", "65536", "000080", "123456", "", "+5", "-0"]
        let rests = [
            "", ":", ":0", ":7", ":2147483647", ":2147483648", ":-3", ":+3", ":0:0", ":0:1", ":5:2", ":5:3", ":0:0:0",
            "::1", ":1::2", ":1:2 ", ":999999999:0", ":1000000000:0", ":x",
        ]
        for octet in octets {
            for port in ports {
                for rest in rests {
                    for text in ["127.0.0.\(octet):\(port)\(rest)", "\(octet).0.0.1:\(port)\(rest)"] {
                        let (usual, apart) = (PeerID(text), PeerID(text[...]))
                        #expect(usual == apart && usual?.role == apart?.role, "\(text)")
                    }
                }
            }
        }
        #expect(PeerID("1.2.3.4:5:6:1")?.role == .witness)
        #expect(PeerID("127.0.0.1:8101:0:0\0") == nil && PeerID("1.2.3:4:5:6") == nil && PeerID("1.2.3.4.5:6") == nil)
    }

    @Test("a name is written with all four parts, and read again")
    func description() {
        for (ip, host) in [(0, "0.0.0.0"), (0x7f00_0001, "127.0.0.1"), (.max, "255.255.255.255")] as [(UInt32, String)]
        {
            for port in [0, 9, 10, 8101, .max] as [UInt16] {
                for idx in [0, 9, 10, 12_345, 999_999_999, 1_000_000_000, .max, -1, .min] as [Int32] {
                    for role in [PeerID.Role.replica, .witness, .learner] {
                        let peer = PeerID(address: NodeAddress(ip: ip, port: port), idx: idx, role: role)
                        let text = "\(host):\(port):\(idx):\(role.rawValue)"
                        #expect(peer.description == text)
                        #expect(PeerID(peer.description) == peer && PeerID(peer.description)?.role == role)
                    }
                }
            }
        }
    }
}
