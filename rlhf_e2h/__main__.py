from rlhf_e2h.cli import entry

if __name__ == "__main__":
    entry()
