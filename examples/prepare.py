"""Make the data files of the examples from the published ones; raw counts only.

python examples/prepare.py k562 K562_essential_raw_singlecell_01.h5ad
python examples/prepare.py tabula-sapiens immune.h5ad kidney.h5ad lung.h5ad
python examples/prepare.py both
"""

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp

from cellcircuits.counts import strip_version
from cellcircuits.selection import select_cells

DATA = Path(__file__).parent.parent / "data"
K562, TABULA_SAPIENS, BOTH = "k562.h5ad", "tabula_sapiens.h5ad", "k562_and_tabula_sapiens.h5ad"


def take(path: Path, where: dict[str, list[str]], n_cells: int, stratify_by: str = "") -> ad.AnnData:
    """Cells of a file (0: all that match), read without the others; raw counts where the file keeps them apart."""
    backed = ad.read_h5ad(path, backed="r")
    rows = select_cells(backed.obs, where, n_cells, stratify_by, seed=0)
    cells = backed[rows].to_memory()
    cells = cells if cells.raw is None else cells.raw.to_adata()
    cells.X = sp.csr_matrix(cells.X)
    return cells


def k562(source: Path, data: Path) -> None:
    """Control cells of the K562 screen, with the cell line, which that file does not say."""
    cells = take(source, {"gene": ["non-targeting"]}, n_cells=0)
    cells.obs = cells.obs[["gene"]].assign(cell_line="K562")
    cells.write_h5ad(data / K562)


def tabula_sapiens(sources: list[Path], data: Path, n_cells: int = 1000) -> None:
    """`n_cells` of each tissue in proportion to its cell types; the tissue is the name of its file."""
    parts = []
    for source in sources:
        part = take(source, {}, n_cells, "cell_type")
        kind = part.obs["cell_type"].astype(str)
        part.obs = part.obs[[]].assign(tissue=source.stem, cell_type=kind, tissue_cell_type=source.stem + ": " + kind)
        parts.append(part)
    joined = ad.concat(parts, join="inner", merge="same", index_unique="-", keys=[source.stem for source in sources])
    joined.write_h5ad(data / TABULA_SAPIENS)


def both(data: Path, n_cells: int = 2000) -> None:
    """As many cells of each, over all genes of either; `var` must be indexed by Ensembl ids."""
    parts = {"K562": take(data / K562, {}, n_cells), "Tabula Sapiens": take(data / TABULA_SAPIENS, {}, n_cells)}
    for part in parts.values():
        part.var = part.var[[]].set_axis(strip_version(np.asarray(part.var_names)))
        part.var_names_make_unique()
    joined = ad.concat(parts, join="outer", fill_value=0, label="origin", index_unique="-")
    joined.write_h5ad(data / BOTH)


def main() -> None:
    """Read the arguments and make one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("k562", "tabula-sapiens", "both"))
    parser.add_argument("files", nargs="*", type=Path, help="published .h5ad files")
    given = parser.parse_args()
    wanted = {"k562": 1, "tabula-sapiens": 3, "both": 0}[given.dataset]
    if len(given.files) != wanted:
        parser.error(f"{given.dataset} is made from {wanted} files; {len(given.files)} were given")
    DATA.mkdir(exist_ok=True)
    if given.dataset == "k562":
        k562(given.files[0], DATA)
    elif given.dataset == "tabula-sapiens":
        tabula_sapiens(given.files, DATA)
    else:
        both(DATA)


if __name__ == "__main__":
    main()
