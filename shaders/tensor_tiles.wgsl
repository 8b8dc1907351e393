// The tables by which kernels walk the tensors of a window: tiles of 64 x 64 elements, one a workgroup of
// 256. An invocation has 4 x 4 elements of it, 16 rows and 16 columns apart, so that neighbours read neighbours.
//
// A tensor that is not factored is laid out as rows of 64, the last of them ragged.

struct Piece {
    offset: u32, // of its first element in the window
    len: u32, // elements
    cols: u32,
    tensor: u32,
    factored: u32,
    rows_at: u32, // in `factors`, of its first row's mean square; not factored: in `v`, of its first element
    cols_at: u32, // in `factors`, of the first column's mean square
    padding: u32,
}

struct Tile {
    piece: u32,
    y: u32, // of its first element, in units of 64 rows
    x: u32, // the same in columns
    id: u32, // among the tiles of all tensors and windows
}

@group(0) @binding(1) var<storage, read> tiles: array<Tile>; // of all windows, this one's from p.first on
@group(0) @binding(2) var<storage, read> pieces: array<Piece>;

// Whether the piece has this element.
fn inside(piece: Piece, row: u32, col: u32) -> bool {
    return col < piece.cols && row * piece.cols + col < piece.len;
}
