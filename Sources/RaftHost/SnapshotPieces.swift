import RaftStorage

/// Which bytes of a snapshot's files are still to come. Each is missing, under way, or received, and in no two of them.
struct SnapshotPieces {
    /// Bytes of one file, asked for at once.
    struct Piece: Equatable {
        var file: Int
        var offset: Int
        var count: Int
    }

    /// The next one last; what was not asked for yet of a file is one piece.
    private var missing: [Piece] = []
    /// Pieces that were asked for.
    private(set) var underWay = 0
    /// Bytes that are here.
    private(set) var received = 0

    init(of files: [StoredFolder.File] = []) {
        for (position, file) in files.enumerated().reversed() where file.byteCount > 0 {
            missing.append(Piece(file: position, offset: 0, count: file.byteCount))
        }
    }

    var isComplete: Bool { missing.isEmpty && underWay == 0 }

    /// The next piece to ask for, of at most `bytes`.
    mutating func next(atMost bytes: Int) -> Piece? {
        guard var piece = missing.popLast() else { return nil }
        if piece.count > bytes {
            missing.append(Piece(file: piece.file, offset: piece.offset + bytes, count: piece.count - bytes))
            piece.count = bytes
        }
        underWay += 1
        return piece
    }

    /// `piece` did not come, or not as it was: it is asked for again.
    mutating func lose(_ piece: Piece) {
        underWay -= 1
        missing.append(piece)
    }

    /// The first `count` bytes of `piece` are here, the rest is asked for again.
    mutating func take(_ count: Int, of piece: Piece) {
        precondition(count > 0 && count <= piece.count, "more than was asked for")
        underWay -= 1
        received += count
        guard count < piece.count else { return }
        missing.append(Piece(file: piece.file, offset: piece.offset + count, count: piece.count - count))
    }
}
