package keeper

// The key services whose URLs are understood: AWS KMS (awskms://), Azure Key Vault (azurekeyvault://), Google Cloud KMS
// (gcpkms://) and the transit engine of HashiCorp Vault or OpenBao (hashivault://). Only the server's program carries
// them; a node has no keeper. What they weigh is in docs/decisions/0008-keepers.md.
import (
	_ "gocloud.dev/secrets/awskms"
	_ "gocloud.dev/secrets/azurekeyvault"
	_ "gocloud.dev/secrets/gcpkms"
	_ "gocloud.dev/secrets/hashivault"
)
