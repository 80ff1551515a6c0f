"""Networks from files: which kind each is, what is read, what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cellcircuits.errors import DataError
from cellcircuits.networks import Interactions, Targets, read_network


def written(folder: Path, text: str, name: str = "net.tsv") -> Path:
    (folder / name).write_text(text)
    return folder / name


INTERACTION_FILES = {
    "string": "protein1 protein2 combined_score\nTP53 MDM2 999\nMDM2 TP53 999\nCD3E CD3D 400\nCD3E CD3E 900\n",
    "tabs": "a\tb\tcombined_score\tdatabase\nTP53\tMDM2\t999\t0\ncd3d\tCD3E\t400\t0\n",
    "commas": "Gene1,Gene2,score\nTP53,MDM2,999\nCD3E,CD3D,400\n",
    "string's own header": "#node1\tnode2\tcombined_score\nTP53\tMDM2\t999\nCD3D\tCD3E\t400\n",
}


@pytest.mark.parametrize("text", INTERACTION_FILES.values(), ids=INTERACTION_FILES)
def test_interactions_are_pairs_without_direction_and_repeats(tmp_path, text):
    found = read_network(written(tmp_path, text, "ppi.v1.tsv"))
    assert isinstance(found, Interactions)
    assert found.name == "ppi.v1"
    assert found.pairs == {("MDM2", "TP53"), ("CD3D", "CD3E")}
    assert read_network(tmp_path / "ppi.v1.tsv", 700).pairs == {("MDM2", "TP53")}


def test_interactions_need_no_score(tmp_path):
    path = written(tmp_path, "gene_a,gene_b\nTP53,MDM2\n")
    assert read_network(path).pairs == {("MDM2", "TP53")}
    with pytest.raises(DataError, match=r"has no score .* so min_interaction_score = 700 cannot be applied"):
        read_network(path, 700)


TARGET_FILES = {
    "trrust": "MYC\tTERT\tActivation\t1\nMYC\tCDKN1A\tRepression\t2\nSPI1\tTERT\tUnknown\t3;4\n",
    "collectri": '"source","target","weight"\n"MYC","TERT",1\n"MYC","CDKN1A",-1\n"SPI1","tert",1\n',
    "dorothea": "tf\tconfidence\ttarget\tmor\nMYC\tA\tTERT\t1\nMYC\tB\tCDKN1A\t1\nSPI1\tC\tTERT\t1\n",
}


@pytest.mark.parametrize("text", TARGET_FILES.values(), ids=TARGET_FILES)
def test_targets_by_regulator(tmp_path, text):
    found = read_network(written(tmp_path, text))
    assert isinstance(found, Targets)
    assert found.sets.terms == {"MYC": {"TERT", "CDKN1A"}, "SPI1": {"TERT"}}
    assert found.regulator("SPI1") == "SPI1"


def test_gmt_sets_name_the_regulator_first(tmp_path):
    path = written(tmp_path, "Arid3a_K562_HG19\t\tTP53\tMDM2\nMYC\t\tTERT\nBCL3 A549 hg19\t\tTERT\n", "chip.gmt")
    found = read_network(path)
    assert isinstance(found, Targets)
    assert found.name == "chip" and len(found.sets.terms) == 3
    assert [found.regulator(name) for name in found.sets.terms] == ["ARID3A", "MYC", "BCL3"]


def test_compressed_files_are_known_by_their_content(tmp_path):
    (tmp_path / "net.tsv.gz").write_bytes(gzip.compress(TARGET_FILES["trrust"].encode()))
    assert read_network(tmp_path / "net.tsv.gz").name == "net"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,z\n1,2,3\n", r"is no known network; its columns begin x, y, z\. Expected interactions"),
        ("TP53\tMDM2\n", r"is no known network; its columns begin TP53, MDM2\."),
        ("", r"is empty\. Expected interactions"),
        ("gene1,gene2\nTP53,\n", r"line 2: expected two gene symbols, found 'TP53,'"),
        ("gene1,gene2\n\nTP53\n", r"line 3: expected two gene symbols, found 'TP53'"),
        (
            "protein1 protein2 combined_score\n9606.ENSP00000000233 9606.ENSP00000356607 173\n",
            "gene symbols are needed",
        ),
        ("source,target\nENSG00000141510,MDM2\n", "gene symbols are needed"),
        ("gene1,gene2\nTP53,TP53\n", r"holds no interaction with a score of at least 0"),
        ("source,target\n", r"holds no target"),
    ],
)
def test_what_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_network(written(tmp_path, text))


def test_a_score_that_is_no_number(tmp_path):
    path = written(tmp_path, "gene1,gene2,score\nA,B,high\n")
    assert len(read_network(path).pairs) == 1
    with pytest.raises(DataError, match="line 2: expected a score, found 'A,B,high'"):
        read_network(path, 1)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"Cannot read the network .*absent\.tsv.*No such file"):
        read_network(tmp_path / "absent.tsv")


@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [
        ("string_v12_ntm_ge700_symbols.tsv.gz", Interactions, 131520),
        ("string_v11_ge964_symbols.tsv.gz", Interactions, 49886),
        ("trrust_rawdata.human.tsv", Targets, 795),
        ("collectri_human.csv.gz", Targets, None),
        ("dorothea_hs_ABC.tsv.gz", Targets, 271),
        ("chea3_ENCODE_TF_ChIPseq_human.gmt.gz", Targets, 470),
        ("chea3_ChEA_human.gmt.gz", Targets, 134),
    ],
)
def test_published_networks(real_data, name, kind, size):
    found = read_network(real_data / "networks" / name)
    assert isinstance(found, kind)
    n = len(found.pairs) if isinstance(found, Interactions) else len(found.sets.terms)
    assert n == size if size is not None else n > 500


def test_a_published_score_is_applied(real_data):
    path = real_data / "networks" / "string_v12_ntm_ge700_symbols.tsv.gz"
    assert 0 < len(read_network(path, 900).pairs) < len(read_network(path, 800).pairs) < 131520
