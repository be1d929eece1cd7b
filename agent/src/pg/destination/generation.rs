//! Raising a table's generation: from then on nobody writes for an older plan of it (laws O1, O4).
